// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// envPart selects what TestPart does, in a test binary that a test has started.
const envPart = "NFTNAT_TEST_PART"

// TestPart is not a test but what other tests run in a second test binary.
func TestPart(t *testing.T) {
	switch os.Getenv(envPart) {
	case "":
		t.Skip("run by other tests only")
	case "pass":
		labtest.Require(t)
		id, err := os.Readlink("/proc/self/ns/net")
		require.NoError(t, err)
		t.Log("namespace", id, "user", os.Geteuid())
		require.Zero(t, os.Geteuid())
		require.NoError(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
		require.NoError(t, os.Mkdir("/run/netns", 0o755))
		top := labtest.NewTopology(t, top1())
		serve(t, top.Host)
		labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:7000", "host")
		require.Contains(t, labtest.Exec(t, top.Backend1, "ip", "addr"), "172.30.0.2/24")
	case "fail":
		t.Fatal("as told")
	case "panic":
		panic("as told")
	case "exit":
		os.Exit(9)
	case "kill":
		require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGKILL))
		<-make(chan int)
	case "wait":
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM)
		_, _ = os.Stdout.WriteString("ready\n")
		<-signals
		os.Exit(11)
	case "scarce":
		// One is this process's own, so that the fourth of the topology fails.
		labtest.LeakCheck(t)
		debug.SetGCPercent(-1) // which would close what was forgotten
		files := count(t, "/proc/self/fd")
		_, err := lab.Build(lab.Options{})
		require.ErrorIs(t, err, syscall.ENOSPC)
		require.ErrorContains(t, err, "build topology: create network namespace backend1")
		require.Equal(t, files, count(t, "/proc/self/fd"))
	case "leak":
		go leakyWait(make(chan struct{}), make(chan struct{}))
	}
}

// outside is the command that runs a part in a test binary that has no notion
// of being in namespaces already.
func outside(t *testing.T, part string, env ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, "-test.run=^TestPart$", "-test.v", "-test.count=1")
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "NFTNAT_TEST_") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.Env = append(append(cmd.Env, envPart+"="+part), env...)
	return cmd
}

func TestMainStatus(t *testing.T) {
	labtest.Require(t)
	tests := []struct {
		part string
		code int
		text string
	}{
		{"pass", 0, "--- PASS: TestPart"},
		{"fail", 1, "as told"},
		{"panic", 2, "panic: as told"},
		{"exit", 9, ""},
		{"kill", 128 + 9, "the tests were ended by a signal: killed"},
		{"leak", 1, "leaked goroutine"},
	}
	for _, tt := range tests {
		t.Run(tt.part, func(t *testing.T) {
			if tt.part == "leak" {
				labtest.LongOnly(t, "10 s for leaks to go away, which they do not")
			}
			cmd := outside(t, tt.part)
			out, err := cmd.CombinedOutput()
			require.Equal(t, tt.code, cmd.ProcessState.ExitCode(), "%v\n%s", err, out)
			require.Contains(t, string(out), tt.text)
		})
	}
}

// A user without privilege gets the same as root does.
func TestMainUser(t *testing.T) {
	labtest.Require(t)
	if users(t) < 65535 {
		t.Skip("these tests are run by such a user anyway")
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := outside(t, "pass")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, NoSetGroups: true}}
	// What go test built is in a directory that only its owner may enter.
	data, err := os.ReadFile(exe)
	require.NoError(t, err)
	dir, err := os.MkdirTemp("/var/tmp", "labtest")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	scratch := filepath.Join(dir, "scratch")
	require.NoError(t, os.Mkdir(scratch, 0o700))
	require.NoError(t, os.Chown(scratch, 65534, 65534))
	cmd.Path = filepath.Join(dir, "labtest.test")
	cmd.Dir = dir
	cmd.Env = append(cmd.Env, "TMPDIR="+scratch, "GOCOVERDIR="+scratch)
	require.NoError(t, os.WriteFile(cmd.Path, data, 0o755))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: TestPart")
}

// users returns how many user ids there are in this user namespace.
func users(t *testing.T) (n int) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/uid_map")
	require.NoError(t, err)
	var first, lower, size int
	for line := range strings.Lines(string(data)) {
		_, err := fmt.Sscan(line, &first, &lower, &size)
		require.NoError(t, err)
		n += size
	}
	return n
}

// scarce makes cmd run in a user namespace that can have so many network
// namespaces. The limit is its own, nobody else's.
func scarce(t *testing.T, cmd *exec.Cmd, namespaces string) {
	t.Helper()
	unshare, sh := labtest.Tool(t, "unshare"), labtest.Tool(t, "sh")
	if out, err := exec.Command(unshare, "--user", "--map-root-user", "true").CombinedOutput(); err != nil {
		t.Skipf("no user namespaces: %s", out)
	}
	limit := `echo "$0" >/proc/sys/user/max_net_namespaces && exec "$@"`
	cmd.Args = append([]string{unshare, "--user", "--map-root-user", sh, "-c", limit, namespaces, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = unshare
}

// Where there are no namespaces, tests skip and say why, or fail if told to.
func TestMainWithout(t *testing.T) {
	labtest.Require(t)
	tests := []struct {
		env  string
		code int
		text string
	}{
		{"NFTNAT_TEST_NETNS=", 0, "--- SKIP: TestPart"},
		{"NFTNAT_TEST_NETNS=require", 1, "no space left on device"},
	}
	for _, tt := range tests {
		cmd := outside(t, "pass", tt.env)
		scarce(t, cmd, "0")
		out, _ := cmd.CombinedOutput()
		require.Equal(t, tt.code, cmd.ProcessState.ExitCode(), "%s", out)
		require.Contains(t, string(out), tt.text)
		require.Contains(t, string(out), "no space left on device", "the reason")
	}
}

// A topology that cannot be built leaves nothing.
func TestBuildFails(t *testing.T) {
	labtest.Require(t)
	cmd := outside(t, "scarce")
	scarce(t, cmd, "4")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: TestPart")
}

// The note of having left the machine's namespace is not believed blindly.
func TestMainMarkerChecked(t *testing.T) {
	labtest.Require(t)
	id, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	cmd := outside(t, "pass", "NFTNAT_TEST_NETNS_LEFT="+id)
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "still the namespace that was to be left")
}

func TestMainPassesSignals(t *testing.T) {
	labtest.LeakCheck(t)
	labtest.Require(t)
	cmd := outside(t, "wait")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var seen bytes.Buffer
	for !strings.Contains(seen.String(), "ready\n") {
		buf := make([]byte, 100)
		n, err := out.Read(buf)
		require.NoError(t, err, seen.String())
		seen.Write(buf[:n])
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.Error(t, cmd.Wait())
	require.Equal(t, 11, cmd.ProcessState.ExitCode())
}

// The tests do not outlive what started them, even if it is killed.
func TestMainDiesTogether(t *testing.T) {
	labtest.LeakCheck(t)
	labtest.Require(t)
	cmd := outside(t, "wait")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = out.Read(make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Kill())
	// The pipe's other end is closed when the last process that has it is gone.
	end := time.AfterFunc(timeout, func() { _ = out.Close() })
	defer end.Stop()
	for err == nil {
		_, err = out.Read(make([]byte, 100))
	}
	require.ErrorContains(t, err, "EOF")
	require.Error(t, cmd.Wait())
}
