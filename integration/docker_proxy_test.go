// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// dockerProxy is a docker-proxy that was started as dockerd starts it.
type dockerProxy struct {
	*labtest.Process
	// status is what it wrote to the status pipe.
	status string
}

// dockerProxy publishes a port: "tcp 0.0.0.0:8080 172.30.0.2:80". A socket is descriptor 4.
func (s *testbed) dockerProxy(t *testing.T, what string, socket ...*os.File) dockerProxy {
	t.Helper()
	words := strings.Fields(what)
	front, back := netip.MustParseAddrPort(words[1]), netip.MustParseAddrPort(words[2])
	args := []string{"docker-proxy", "-proto", words[0], "-host-ip", front.Addr().String(), "-host-port", fmt.Sprint(front.Port()),
		"-container-ip", back.Addr().String(), "-container-port", fmt.Sprint(back.Port())}
	if len(socket) != 0 {
		args = append(args, "-use-listen-fd")
	}
	cmd := bare(t, args...)
	cmd.Env = append(cmd.Env, "NFTNAT_SOCKET="+s.socket)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	cmd.ExtraFiles = append([]*os.File{w}, socket...)
	p := labtest.StartCmd(t, s.ns, cmd)
	for _, f := range cmd.ExtraFiles {
		require.NoError(t, f.Close())
	}
	require.NoError(t, r.SetReadDeadline(time.Now().Add(labtest.Stretch(16*time.Second))))
	status, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	return dockerProxy{p, string(status)}
}

// started is dockerProxy, which must succeed.
func (s *testbed) started(t *testing.T, what string, socket ...*os.File) dockerProxy {
	t.Helper()
	p := s.dockerProxy(t, what, socket...)
	require.Equal(t, "0\n", p.status, p.Output())
	return p
}

// stop stops it as dockerd does: when it has ended, the port is free.
func (p dockerProxy) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, p.Signal(unix.SIGINT))
	require.Zero(t, p.Wait(), p.Output())
}

// memory is what a process takes, in KiB, what it shares counted in part.
func memory(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	require.NoError(t, err)
	return number(t, string(text), "Pss:")
}

// waits returns when the process has become the small program.
func (p dockerProxy) waits(t *testing.T) {
	t.Helper()
	await(t, "a process that waits", func() bool {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.Pid))
		return err == nil && string(comm) == "docker-proxy\n" && memory(t, p.Pid) <= 64
	})
}

func (s *testbed) ports(t *testing.T) (texts []string) {
	t.Helper()
	ms, err := s.api.Mappings(t.Context())
	require.NoError(t, err)
	for _, m := range ms {
		texts = append(texts, m.Proto.String()+" "+m.FrontendText())
	}
	slices.Sort(texts)
	return texts
}

// newDockerTestbed is a host with a daemon and a backend.
func newDockerTestbed(t *testing.T) (*testbed, *lab.Topology) {
	t.Helper()
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	labtest.EchoUDP(t, top.Backend1, "dns", ":53")
	return newTestbed(t, top.Host), top
}

// Ports are published for as long as their processes run, for clients from everywhere.
func TestDockerProxy(t *testing.T) {
	s, top := newDockerTestbed(t)
	s.serve(t)
	started := []dockerProxy{
		s.started(t, "tcp 0.0.0.0:8080 172.30.0.2:80"),
		s.started(t, "tcp [::]:8080 172.30.0.2:80"), // as where the container has no IPv6
		s.started(t, "udp 0.0.0.0:53 172.30.0.2:53"),
		s.started(t, "tcp [::]:8081 [fd00:30::2]:80"),
		s.started(t, "tcp 127.0.0.1:8082 172.30.0.2:80"),
		s.started(t, "tcp 0.0.0.0:8083 172.30.0.2:80", s.bound(t, "tcp 0.0.0.0:8083")),
		s.started(t, "tcp [::]:8083 172.30.0.2:80", s.bound(t, "tcp [::]:8083")),
		s.started(t, "udp 0.0.0.0:54 172.30.0.2:53", s.bound(t, "udp 0.0.0.0:54")),
	}
	peer := labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
	require.Equal(t, "192.0.2.2", peer.Addr().String(), "the client's address is kept")
	for _, to := range []string{"192.0.2.1:8080", "[2001:db8:1::1]:8080", "[2001:db8:1::1]:8081", "192.0.2.1:8083", "[2001:db8:1::1]:8083"} {
		labtest.Reaches(t, top.Client, "tcp", to, "web")
	}
	for _, to := range []string{"127.0.0.1:8080", "[::1]:8080", "[::1]:8081", "127.0.0.1:8082", "127.0.0.1:8083", "[::1]:8083"} {
		labtest.Reaches(t, top.Host, "tcp", to, "web")
	}
	for _, port := range []string{"53", "54"} {
		labtest.Reaches(t, top.Client, "udp", "192.0.2.1:"+port, "dns")
		labtest.Reaches(t, top.Host, "udp", "127.0.0.1:"+port, "dns")
	}
	require.Error(t, labtest.NoAnswer(t, top.Client, "tcp", "192.0.2.1:8082"))
	for _, p := range started {
		require.LessOrEqual(t, memory(t, p.Pid), 64)
	}
	for i, p := range started {
		p.stop(t)
		require.Len(t, s.ports(t), len(started)-i-1)
	}
	// Their ports are free, for dockerd itself too.
	for _, port := range []string{"tcp 0.0.0.0:8083", "tcp [::]:8083", "udp 0.0.0.0:54", "udp 0.0.0.0:53", "tcp 0.0.0.0:8080"} {
		require.NoError(t, s.bound(t, port).Close())
	}
	// A container that is started again at once.
	for range 20 {
		p := s.started(t, "tcp 0.0.0.0:8083 172.30.0.2:80", s.bound(t, "tcp 0.0.0.0:8083"))
		labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8083", "web")
		p.stop(t)
	}
}

// bound is a socket as dockerd 28 binds it: "tcp 0.0.0.0:8080".
func (s *testbed) bound(t *testing.T, what string) (f *os.File) {
	t.Helper()
	proto, address, _ := strings.Cut(what, " ")
	ap := netip.MustParseAddrPort(address)
	require.NoError(t, s.ns.Do(func() error {
		family, kind := unix.AF_INET, unix.SOCK_STREAM
		sa := unix.Sockaddr(&unix.SockaddrInet4{Port: int(ap.Port())})
		if ap.Addr().Is6() {
			family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(ap.Port())}
		}
		if proto == "udp" {
			kind = unix.SOCK_DGRAM
		}
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), what)
		if family == unix.AF_INET6 {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
				return err
			}
		}
		if kind == unix.SOCK_DGRAM {
			return unix.Bind(fd, sa)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
		if err := unix.Bind(fd, sa); err != nil {
			return err
		}
		return unix.Listen(fd, 4096)
	}))
	return f
}

// A port that is published or held is refused, and dockerd is told by whom.
func TestDockerProxyConflict(t *testing.T) {
	s, top := newDockerTestbed(t)
	s.serve(t)
	s.succeed(t, "add tcp 8080 172.30.0.2:80 --name web")
	p := s.dockerProxy(t, "tcp 0.0.0.0:8080 172.30.0.9:80")
	require.Equal(t, `1`+"\n"+`nftnat: publish tcp 0.0.0.0:8080: tcp 8080 is published as 8080->172.30.0.2:80 by "web"`, p.status)
	require.Equal(t, 1, p.Wait())
	holder, err := occupy(top.Host, "tcp", "0.0.0.0:81")
	require.NoError(t, err)
	p = s.dockerProxy(t, "tcp 0.0.0.0:81 172.30.0.9:80")
	require.Contains(t, p.status, "1\nnftnat: publish tcp 0.0.0.0:81: tcp 0.0.0.0:81 is held by ")
	require.Equal(t, 1, p.Wait())
	require.NoError(t, holder.Close())
	require.Equal(t, []string{"tcp 8080"}, s.ports(t))
}

// Whoever is killed: what is published is what processes run for, and works.
func TestDockerProxyKilled(t *testing.T) {
	s, top := newDockerTestbed(t)
	daemon := s.serve(t)
	web := s.started(t, "tcp 0.0.0.0:8080 172.30.0.2:80")
	other := s.started(t, "tcp 0.0.0.0:8081 172.30.0.2:80", s.bound(t, "tcp 0.0.0.0:8081"))
	gone := s.started(t, "tcp 0.0.0.0:8082 172.30.0.2:80")

	gone.Kill()
	await(t, "the port of a killed process to go", func() bool { return len(s.ports(t)) == 2 })
	// At once again, which the daemon has not to have noticed.
	for range 5 {
		gone = s.started(t, "tcp 0.0.0.0:8082 172.30.0.2:80")
		gone.Kill()
	}
	gone = s.started(t, "tcp 0.0.0.0:8082 172.30.0.2:80")

	daemon.Kill()
	gone.Kill()
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
	daemon = s.serve(t)
	require.Equal(t, []string{"tcp 0.0.0.0:8080", "tcp 0.0.0.0:8081"}, s.ports(t), "that of the process which has ended is gone")
	for _, p := range []dockerProxy{web, other} {
		p.waits(t)
	}
	for _, port := range []string{"8080", "8081"} {
		labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:"+port, "web")
		labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:"+port, "web")
	}
	// Whether it has a session again, or is stopped before.
	web.stop(t)
	await(t, "the port to go", func() bool { return slices.Equal([]string{"tcp 0.0.0.0:8081"}, s.ports(t)) })
	other.Kill()
	await(t, "the port of a killed process to go", func() bool { return len(s.ports(t)) == 0 })
	require.NoError(t, daemon.Signal(unix.SIGTERM))
	require.Zero(t, daemon.Wait())
}

// A handover passes sessions on: processes notice nothing.
func TestDockerProxyTakeover(t *testing.T) {
	s, top := newDockerTestbed(t)
	first := s.serve(t)
	web := s.started(t, "tcp 0.0.0.0:8080 172.30.0.2:80")
	for range 2 {
		next := s.serve(t, "--takeover")
		require.Zero(t, first.Wait(), first.Output())
		require.LessOrEqual(t, memory(t, web.Pid), 64)
		labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
		first = next
	}
	web.stop(t)
	require.Empty(t, s.ports(t))
}

// Without a daemon a container starts all the same, and the first daemon takes its port over without
// an error for clients.
func TestDockerProxyWithoutDaemon(t *testing.T) {
	s, top := newDockerTestbed(t)
	web := s.started(t, "tcp 0.0.0.0:8080 172.30.0.2:80")
	dns := s.started(t, "udp 0.0.0.0:53 172.30.0.2:53")
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
	labtest.Reaches(t, top.Client, "udp", "192.0.2.1:53", "dns")
	labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", "web")
	load := startCallers(t, top.Client, "tcp", "192.0.2.1:8080")
	s.serve(t)
	await(t, "the ports to be published", func() bool { return len(s.ports(t)) == 2 })
	web.waits(t)
	dns.waits(t)
	load.goOn(t)
	require.NoError(t, load.end(t))
	peer := labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
	require.Equal(t, "192.0.2.2", peer.Addr().String())
	labtest.Reaches(t, top.Client, "udp", "192.0.2.1:53", "dns")
	for _, p := range []dockerProxy{web, dns} {
		await(t, "a session in the place of that of the process that carried the port", func() bool {
			children, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", p.Pid))
			require.NoError(t, err)
			return len(children) == 0
		})
		p.stop(t)
	}
	require.Empty(t, s.ports(t))
}

// The processes of a thousand ports take no more than 9 MiB, and are all there again after a daemon was killed.
func TestDockerProxyThousand(t *testing.T) {
	labtest.LongOnly(t, "a thousand docker-proxies")
	s, top := newDockerTestbed(t)
	daemon := s.serve(t)
	idle := memory(t, daemon.Pid)
	const count = 1000
	started := make([]dockerProxy, count)
	for i := range started {
		started[i] = s.started(t, fmt.Sprintf("tcp 0.0.0.0:%d 172.30.0.2:80", 20000+i))
	}
	total := func() (kib int) {
		for _, p := range started {
			kib += memory(t, p.Pid)
		}
		return kib
	}
	t.Logf("%d processes take %d KiB; the daemon takes %d KiB, and took %d", count, total(), memory(t, daemon.Pid), idle)
	require.LessOrEqual(t, total(), 9<<10)
	load := startCallers(t, top.Client, "tcp", "192.0.2.1:20500")
	daemon.Kill()
	s.serve(t)
	for _, p := range started {
		p.waits(t)
	}
	load.goOn(t)
	require.NoError(t, load.end(t))
	require.Len(t, s.ports(t), count)
	require.LessOrEqual(t, total(), 9<<10)
	for i := range 10 {
		labtest.Reaches(t, top.Host, "tcp", fmt.Sprintf("127.0.0.1:%d", 20000+97*i), "web")
	}
	for _, p := range started {
		p.stop(t)
	}
	require.Empty(t, s.ports(t))
}
