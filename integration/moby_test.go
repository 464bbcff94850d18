// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// mobyModule has docker-proxy's own tests, and mobySum is what the module has to be.
const (
	mobyModule = "github.com/moby/moby/v2@v2.0.0-beta.24"
	mobySum    = "h1:sWv7EckkDJhpraR9yUjkw1XeVf39+MWd58E22PYloNA="
)

// mobyAdapter takes the place of their newProxy: it executes $DOCKER_PROXY as dockerd does.
const mobyAdapter = `package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

type executed struct{ cmd *exec.Cmd }

func (p executed) Run() {}

func (p executed) Close() {
	if err := errors.Join(p.cmd.Process.Signal(syscall.SIGINT), p.cmd.Wait()); err != nil {
		panic(err)
	}
}

func newProxy(config ProxyConfig) (Proxy, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(os.Getenv("DOCKER_PROXY"), "-proto", config.Proto,
		"-host-ip", config.HostIP.String(), "-host-port", strconv.Itoa(config.HostPort),
		"-container-ip", config.ContainerIP.String(), "-container-port", strconv.Itoa(config.ContainerPort))
	cmd.ExtraFiles = []*os.File{w}
	if config.ListenSock != nil {
		cmd.Args = append(cmd.Args, "-use-listen-fd")
		cmd.ExtraFiles = append(cmd.ExtraFiles, config.ListenSock)
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	status, err := io.ReadAll(r)
	if err != nil || !strings.HasPrefix(string(status), "0\n") {
		return nil, fmt.Errorf("it said %q (%w)", status, errors.Join(err, cmd.Wait()))
	}
	return executed{cmd}, nil
}
`

// docker-proxy's own tests succeed with nftnat, with a daemon and without one.
func TestMobySuite(t *testing.T) {
	labtest.LongOnly(t, "docker-proxy's own tests, which are downloaded")
	labtest.Tool(t, "go")
	dir := filepath.Join(t.TempDir(), "moby")
	env := append(os.Environ(), "GOFLAGS=-mod=mod", "GOSUMDB=off", "GOWORK=off")
	goTool := func(dir string, args ...string) string {
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = dir, env
		out, err := cmd.Output()
		require.NoError(t, err, "go %s: %s", strings.Join(args, " "), out)
		return string(out)
	}
	var module struct{ Dir, Sum string }
	require.NoError(t, json.Unmarshal([]byte(goTool(t.TempDir(), "mod", "download", "-json", mobyModule)), &module))
	require.Equal(t, mobySum, module.Sum)
	out, err := exec.Command("cp", "-r", "--no-preserve=mode", module.Dir, dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	theirs := filepath.Join(dir, "cmd/docker-proxy")
	main := textOf(t, filepath.Join(theirs, "main_linux.go"))
	require.Contains(t, main, "func newProxy(")
	require.NoError(t, os.WriteFile(filepath.Join(theirs, "main_linux.go"), []byte(strings.ReplaceAll(main, "newProxy(", "theirNewProxy(")), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(theirs, "adapter_test.go"), []byte(mobyAdapter), 0o600))
	binary := filepath.Join(t.TempDir(), "moby.test")
	goTool(dir, "test", "-c", "-o", binary, "./cmd/docker-proxy")

	link := filepath.Join(t.TempDir(), "docker-proxy")
	path, err := program()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(path, link))
	for _, daemon := range []bool{true, false} {
		s, _ := newDockerTestbed(t)
		if daemon {
			s.serve(t)
		}
		cmd := exec.Command(binary, "-test.v", "-test.run", "TCP|UDP", "-test.skip", "SCTP|UDPOneSided")
		cmd.Env = append(os.Environ(), "DOCKER_PROXY="+link, "NFTNAT_SOCKET="+s.socket)
		r := labtest.Run(t, s.ns, cmd)
		require.Zero(t, r.Code, r.Stdout+r.Stderr)
		passed := regexp.MustCompile(`(?m)^--- PASS: (\w+)`).FindAllString(r.Stdout, -1)
		require.Len(t, passed, 9, r.Stdout)
	}
}
