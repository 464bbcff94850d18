// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/internal/confine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

const units = "../packaging/systemd"

// A daemon with the capabilities of the unit does its work, and a command of root names the
// process that has a port.
func TestUnitsCapabilities(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	s := newTestbed(t, top.Host)
	cmd := s.command(t, "serve", "--state", stateFile(t))
	cmd = command(t, "setpriv", append(withOnly(t, "nftnat.service"), cmd.Args...)...)
	cmd.Env = []string{"PATH="}
	p := labtest.StartCmd(t, top.Host, cmd)
	await(t, "the daemon to answer", func() bool {
		_, err := s.api.Status(t.Context())
		return err == nil
	})
	st := s.status(t).Confinement
	require.Equal(t, []string{confine.NetBindService.String(), confine.NetAdmin.String()}, st.Capabilities)
	require.Equal(t, hasLandlock(), len(st.Missing) == 0, "%q", st.Missing)

	holder, err := occupy(top.Host, "tcp", "0.0.0.0:80")
	require.NoError(t, err)
	r := s.run(t, "add tcp 80 172.30.0.2:80")
	require.Equal(t, 3, r.Code)
	require.Contains(t, r.Stderr, "tcp 0.0.0.0:80 is held by "+myself(t))
	refused := s.dockerProxy(t, "tcp 0.0.0.0:80 172.30.0.2:80")
	require.Equal(t, "1\nnftnat: publish tcp 0.0.0.0:80: tcp 0.0.0.0:80 is held by "+myself(t), refused.status)
	require.Equal(t, 1, refused.Wait())
	require.NoError(t, holder.Close())
	s.succeed(t, "add tcp 80 172.30.0.2:80")
	labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:80", "web")
	require.NoError(t, p.Signal(unix.SIGTERM))
	require.Zero(t, p.Wait(), p.Output())
}

// Docker's networks are declared with what the unit leaves to its command, also when another dockerd answers.
func TestUnitsDocker(t *testing.T) {
	top := newTopology(t, lab.Options{})
	s := newTestbed(t, top.Host)
	s.serve(t)
	socket := filepath.Join(filepath.Dir(s.socket), "docker.sock")
	dockerd := func(networks string) *http.Server {
		l, err := net.Listen("unix", socket)
		require.NoError(t, err)
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/networks" {
				_, _ = io.WriteString(w, networks)
				return
			}
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		})}
		go func() { _ = server.Serve(l) }()
		t.Cleanup(func() { _ = server.Close() })
		return server
	}
	declared := func(want string) {
		t.Helper()
		await(t, want, func() bool { return strings.Contains(s.succeed(t, "network ls"), want) })
	}
	first := dockerd(`[{"Id":"0123456789abcdef","Driver":"bridge","IPAM":{"Config":[{"Subnet":"172.17.0.0/16"}]}}]`)
	text, err := os.ReadFile(filepath.Join(units, "nftnat-docker.service"))
	require.NoError(t, err)
	start := regexp.MustCompile(`(?m)^ExecStart=/usr/bin/nftnat (.*)$`).FindSubmatch(text)
	require.NotNil(t, start)
	cmd := s.command(t, append(strings.Fields(string(start[1])), "--docker", socket)...)
	p := labtest.StartCmd(t, top.Host, command(t, "setpriv", append(withOnly(t, "nftnat-docker.service"), cmd.Args...)...))
	declared("docker-0123456789ab")
	require.NoError(t, first.Close())
	dockerd(`[{"Id":"fedcba9876543210","Driver":"bridge","IPAM":{"Config":[{"Subnet":"172.18.0.0/16"}]}}]`)
	declared("docker-fedcba987654")
	require.NotContains(t, s.succeed(t, "network ls"), "docker-0123456789ab")
	require.NoError(t, p.Signal(unix.SIGTERM))
	require.Zero(t, p.Wait(), p.Output())
}

// withOnly returns the options of setpriv(1) for the capabilities of a unit.
func withOnly(t *testing.T, unit string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(units, unit))
	require.NoError(t, err)
	found := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindSubmatch(text)
	require.NotNil(t, found)
	set := "-all"
	for name := range strings.FieldsSeq(string(found[1])) {
		set += ",+" + strings.ToLower(strings.TrimPrefix(name, "CAP_"))
	}
	return []string{"--bounding-set=" + set, "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs", "--"}
}

// A daemon with the user of the unit knows the tables of iptables-legacy, whose list root alone may read, also when it
// has given up what the list took, and after a reload.
func TestUnitsLegacyTables(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	s := newTestbed(t, top.Host)
	const user = 65534
	require.NoError(t, os.Chown(filepath.Dir(s.socket), user, user))
	text, err := os.ReadFile(filepath.Join(units, "nftnat.service"))
	require.NoError(t, err)
	caps := regexp.MustCompile(`(?m)^AmbientCapabilities=(.*)$`).FindSubmatch(text)
	require.NotNil(t, caps)
	set := "-all"
	for name := range strings.FieldsSeq(string(caps[1])) {
		set += ",+" + strings.ToLower(strings.TrimPrefix(name, "CAP_"))
	}
	as := []string{"--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=" + set, "--inh-caps=" + set, "--ambient-caps=" + set, "--no-new-privs", "--"}
	start := func(args ...string) *labtest.Process {
		cmd := s.command(t, append([]string{"serve"}, args...)...)
		return labtest.StartCmd(t, top.Host, command(t, "setpriv", append(as, cmd.Args...)...))
	}
	serving := func(pid int) func() bool {
		return func() bool { st, err := s.api.Status(t.Context()); return err == nil && st.PID == pid }
	}
	first := start()
	await(t, "the daemon to answer", serving(first.Pid))
	require.NotContains(t, s.status(t).Confinement.Capabilities, "CAP_DAC_READ_SEARCH")
	s.succeed(t, "add tcp 8080 172.30.0.2:80")
	q, err := report.ParseQuery("tcp", "8080", clientAddress)
	require.NoError(t, err)
	verdict := func(want report.Verdict) {
		t.Helper()
		r, err := s.api.Explain(t.Context(), q)
		require.NoError(t, err)
		require.Equal(t, want, r.Verdict, "%+v", r)
	}
	verdict(report.Passes)
	labtest.Exec(t, top.Host, "iptables-legacy", "-P", "FORWARD", "DROP")
	verdict(report.Stopped)

	second := start("--takeover")
	await(t, "the next daemon to answer", serving(second.Pid))
	verdict(report.Stopped)
	labtest.Exec(t, top.Host, "iptables-legacy", "-P", "FORWARD", "ACCEPT")
	verdict(report.Passes)
	require.NoError(t, second.Signal(unix.SIGTERM))
	require.Zero(t, second.Wait(), second.Output())
	require.Zero(t, first.Wait(), first.Output())
}
