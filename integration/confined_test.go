// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/confine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// Package confine tests from inside what an intruder in a confined process cannot do. The
// tests here check what the kernel reports about the daemon, and that the daemon can do all
// of its work.

// requireConfined checks each thread of a process.
func requireConfined(t *testing.T, pid int, kept ...confine.Capability) {
	t.Helper()
	var bits uint64
	for _, c := range kept {
		bits |= 1 << c
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	require.NoError(t, err)
	seen := 0
	for _, task := range tasks {
		status, err := os.ReadFile(task)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		require.NoError(t, err)
		seen++
		for field, want := range map[string]string{
			"CapEff": fmt.Sprintf("%016x", bits), "CapPrm": fmt.Sprintf("%016x", bits), "CapBnd": fmt.Sprintf("%016x", bits),
			"CapInh": fmt.Sprintf("%016x", 0), "CapAmb": fmt.Sprintf("%016x", 0),
			"NoNewPrivs": "1", "Seccomp": "2", // SECCOMP_MODE_FILTER
		} {
			require.Contains(t, string(status), "\n"+field+":\t"+want+"\n", task)
		}
	}
	require.Positive(t, seen)
}

// hasLandlock reports whether this kernel has Landlock.
func hasLandlock() bool {
	_, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	return e == 0
}

// A daemon keeps two capabilities, and the files and system calls that it needs, in its own
// namespace and in another, and can do all of its work.
func TestDaemonConfined(t *testing.T) {
	for name, elsewhere := range map[string]bool{"own namespace": false, "another namespace": true} {
		t.Run(name, func(t *testing.T) {
			top := newTopology(t, lab.Options{Parts: lab.PartBackend1, BridgeNF: true})
			for _, network := range []string{"tcp", "udp"} {
				labtest.Echo(t, top.Backend1, network, "web", ":80")
			}
			s, args := newTestbed(t, top.Host), []string{"--metrics", "127.0.0.1:9100"}
			metrics := top.Host
			if elsewhere {
				metrics = labtest.NewNS(t, "away")
				labtest.Exec(t, metrics, "ip", "link", "set", "lo", "up")
				s.ns, args = metrics, append(args, "--netns", top.Host.Path())
			}
			path := stateFile(t)
			p := s.serve(t, append(args, "--state", path)...)
			inOrder := func() {
				t.Helper()
				requireConfined(t, p.Pid, confine.NetAdmin, confine.NetBindService)
			}
			inOrder()
			tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/ns/net", p.Pid))
			require.NoError(t, err)
			for _, task := range tasks {
				var stat unix.Stat_t
				if err := unix.Stat(task, &stat); err == nil { // else it has ended
					require.Equal(t, inode(t, top.Host), stat.Ino)
				}
			}
			st := s.status(t)
			require.Equal(t, inode(t, top.Host), st.NetNS)
			require.NotNil(t, st.Confinement)
			require.Equal(t, []string{"CAP_NET_BIND_SERVICE", "CAP_NET_ADMIN"}, st.Confinement.Capabilities)
			require.True(t, st.Confinement.NoNewPrivileges)
			require.Positive(t, st.Confinement.SystemCalls)
			require.Equal(t, hasLandlock(), st.Confinement.Landlock > 0)
			require.Equal(t, hasLandlock(), len(st.Confinement.Missing) == 0, "%q", st.Confinement.Missing)
			require.Regexp(t, `(?m)^confined +CAP_NET_BIND_SERVICE CAP_NET_ADMIN, `, s.succeed(t, "status"))

			s.work(t, top, metrics)
			inOrder()
			requireKept(t, s, path)

			// Its connections go on until they end.
			live := dialFlow(t, top.Host, "tcp", "127.0.0.1:80")
			require.Equal(t, "web", live.name(t))
			require.NoError(t, p.Signal(unix.SIGTERM))
			await(t, "the proxy to be shut", func() bool {
				_, _, err := askWithin(top.Host, "tcp", "127.0.0.1:80", netip.AddrPort{}, silence)
				return errors.Is(err, unix.ECONNREFUSED)
			})
			require.NoFileExists(t, s.socket)
			goesOn(t, live)
			require.NoError(t, live.conn.Close())
			require.Zero(t, p.Wait(), p.Output())
			require.NotContains(t, p.Output(), "keeps more than it needs")
		})
	}
}

// work makes a daemon do everything that a daemon does.
func (s *testbed) work(t *testing.T, top *lab.Topology, metrics *lab.NS) {
	t.Helper()
	events := s.follow(t)
	for _, network := range []string{"tcp", "udp"} {
		s.succeed(t, "add --quiet "+network+" 80 172.30.0.2:80 --name web")
		labtest.Reaches(t, top.Host, network, "127.0.0.1:80", "web")
		labtest.Reaches(t, top.Client, network, at(top.Host.V4, 80), "web")
		labtest.Reaches(t, top.Client, network, "[2001:db8:1::1]:80", "web") // by a proxy
		// This needs hairpin mode of the bridge port.
		labtest.Reaches(t, top.Backend1, network, at(top.Host.V4, 80), "web")
		holder, err := occupy(top.Host, network, "0.0.0.0:443")
		require.NoError(t, err)
		r := s.run(t, "add "+network+" 443 172.30.0.2:80")
		require.Equal(t, 3, r.Code)
		require.Contains(t, r.Stderr, " 0.0.0.0:443 is held by "+myself(t))
		require.NoError(t, holder.Close())
		s.succeed(t, "add --quiet "+network+" 443 172.30.0.2:80")
	}
	require.True(t, inHairpinMode(t, top.Host, lab.HostPort1))
	s.succeed(t, "network create inside 172.30.0.0/24")
	s.succeed(t, "attach db --network inside --ip 172.30.0.9 -p 5432")
	require.Equal(t, api.ForwardingOn, s.status(t).Forwarding.IPv4, "it was off")
	await(t, "the events", func() bool { return len(events()) >= 5 })
	text := labtest.Exec(t, metrics, "curl", "--silent", "--show-error", "--fail", "--max-time", "60", "http://127.0.0.1:9100/metrics")
	for _, want := range []string{"nftnat_proxies 5", "process_open_fds ", "process_start_time_seconds ", "process_resident_memory_bytes ", "process_max_fds "} {
		require.Contains(t, text, "\n"+want)
	}
}

// requireKept checks that a file has what is published.
func requireKept(t *testing.T, s *testbed, path string) {
	t.Helper()
	require.Empty(t, s.succeed(t, "apply --dry-run -f "+path))
	require.Contains(t, s.succeed(t, "export"), "name: db")
}

// A confined daemon reports the socket that has a port, and its user. The command names the
// process, if it has the right to.
func TestDaemonConfinedConflict(t *testing.T) {
	top := newTopology(t, lab.Options{})
	s := newTestbed(t, top.Host)
	s.serve(t)
	m, err := nat.ParseMappingText("80->172.30.0.2:80")
	require.NoError(t, err)
	holder, err := occupy(top.Host, "tcp", "0.0.0.0:80")
	require.NoError(t, err)
	defer func() { require.NoError(t, holder.Close()) }()
	_, err = s.api.Publish(t.Context(), nat.PublishOptions{}, m)
	var held *nat.HeldError
	require.ErrorAs(t, err, &held)
	require.Equal(t, netip.MustParseAddrPort("0.0.0.0:80"), held.Address)
	require.EqualValues(t, os.Getuid(), held.UID)
	pid, _ := engine.ProcessOf(held.Inode)
	require.Equal(t, os.Getpid(), pid)
	if hasLandlock() {
		require.Zero(t, held.PID)
		require.ErrorContains(t, err, "tcp 0.0.0.0:80 is held by a process of uid 0")
	}

	r := s.run(t, "add tcp 80 172.30.0.2:80")
	require.Equal(t, 3, r.Code)
	require.Contains(t, r.Stderr, "tcp 0.0.0.0:80 is held by "+myself(t))
	unprivileged := []string{"--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--"}
	r = labtest.Run(t, top.Host, command(t, "setpriv", append(unprivileged, s.command(t, "add", "tcp", "80", "172.30.0.2:80").Args...)...))
	require.Equal(t, 3, r.Code, r.Stderr)
	if hasLandlock() {
		require.Equal(t, "nftnat: publish tcp 80: tcp 0.0.0.0:80 is held by a process of uid 0\n", r.Stderr)
	}
}

// A daemon that is started with few capabilities serves with them, and drops those that it
// does not need.
func TestDaemonConfinedBefore(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	for name, c := range map[string]struct {
		left []string
		kept []confine.Capability
	}{
		"of a unit":   {[]string{"net_admin", "net_bind_service", "sys_ptrace", "dac_read_search"}, []confine.Capability{confine.NetAdmin, confine.NetBindService}},
		"the one":     {[]string{"net_admin"}, []confine.Capability{confine.NetAdmin}},
		"and another": {[]string{"net_admin", "sys_admin", "setpcap"}, []confine.Capability{confine.NetAdmin}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestbed(t, top.Host)
			sets := "-all"
			for _, capability := range c.left {
				sets += ",+" + capability
			}
			cmd := s.command(t, "serve", "--state", stateFile(t))
			drop := []string{"--bounding-set=" + sets, "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs", "--"}
			p := labtest.StartCmd(t, top.Host, command(t, "setpriv", slices.Concat(drop, cmd.Args)...))
			await(t, "the daemon to answer", func() bool {
				_, err := s.api.Status(context.Background())
				return err == nil
			})
			st := s.status(t).Confinement
			require.Equal(t, hasLandlock(), len(st.Missing) == 0, "%q", st.Missing)
			require.Len(t, st.Capabilities, len(c.kept))
			if slices.Contains(c.left, "setpcap") {
				requireConfined(t, p.Pid, c.kept...)
			}
			s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80")
			labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", "web")
			s.succeed(t, "rm tcp 8080")
			require.NoError(t, p.Signal(unix.SIGTERM))
			require.Zero(t, p.Wait(), p.Output())
		})
	}
}

// If the daemon may change a directory by CAP_DAC_OVERRIDE only, it keeps that.
func TestDaemonConfinedForeignDirectory(t *testing.T) {
	requireUsers(t)
	top := newTopology(t, lab.Options{})
	s, path := newTestbed(t, top.Host), stateFile(t)
	require.NoError(t, os.Chown(filepath.Dir(path), 4000, 4000))
	require.NoError(t, os.Chmod(filepath.Dir(path), 0o755))
	p := s.serve(t, "--state", path)
	requireConfined(t, p.Pid, confine.DACOverride, confine.NetAdmin, confine.NetBindService)
	s.succeed(t, "network create inside 172.30.0.0/24")
	s.succeed(t, "attach db --network inside --ip 172.30.0.9 -p 5432")
	requireKept(t, s, path)
}
