// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/bpf"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// On localhost, a connection that begins after a change was acknowledged has the new backend, or none, and others are not
// disturbed. Nothing is left of a daemon that was killed.
func TestLoopbackFollows(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "one", ":80")
		labtest.Echo(t, top.Backend2, network, "two", ":80")
	}
	s := newTestbed(t, top.Host)
	s.loopback = "bpf"
	daemon := s.serve(t)
	require.Equal(t, &api.Loopback{By: api.LoopbackBPF}, s.status(t).Loopback)
	for _, network := range []string{"tcp", "udp"} {
		s.succeed(t, "add --quiet "+network+" 8081 172.30.0.2:80")
	}
	others := []*callers{startCallers(t, top.Host, "tcp", "127.0.0.1:8081"), startCallers(t, top.Host, "udp", "[::1]:8081")}
	backends := []struct{ name, address string }{{"one", "172.30.0.2:80"}, {"two", "172.30.0.3:80"}}
	rounds := labtest.RoundsOf(t, "NFTNAT_REPLACEMENTS", "changes of backends", 60, 2000)
	for i := range rounds {
		b := backends[i%2]
		for _, proto := range []nat.Proto{nat.TCP, nat.UDP} {
			m := nattest.Mapping(t, "8080->"+b.address+"/"+proto.String())
			_, err := s.api.Publish(t.Context(), nat.PublishOptions{Replace: true}, m)
			require.NoError(t, err)
			for _, address := range []string{"127.0.0.1:8080", "[::1]:8080"} {
				f := dialFlow(t, top.Host, proto.String(), address)
				require.Equal(t, b.name, f.name(t), "%s %s, change %d", proto, address, i)
				require.NoError(t, f.conn.Close())
			}
			if i%10 != 9 {
				continue
			}
			_, err = s.api.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{m}})
			require.NoError(t, err)
			if proto == nat.TCP {
				_, err = top.Host.Dial(t.Context(), "tcp", "127.0.0.1:8080")
				require.ErrorIs(t, err, unix.ECONNREFUSED)
			}
		}
	}
	for _, c := range others {
		done := c.end(t)
		require.NotZero(t, c.done)
		require.Zero(t, c.refused+c.broken, "%v", done)
	}
	s.succeed(t, "add --quiet --replace tcp 8080 172.30.0.2:80")
	require.NoError(t, daemon.Signal(unix.SIGKILL))
	_ = daemon.Wait()
	_, err := top.Host.Dial(t.Context(), "tcp", "127.0.0.1:8080")
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	s.serve(t)
	labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", "one")
}

// Where eBPF is not allowed, proxies serve, and the status says why; who demands it is told.
func TestLoopbackWithoutPrivilege(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "backend", ":80")
	s := newTestbed(t, top.Host)
	r := s.run(t, "serve --loopback fast")
	require.Equal(t, 2, r.Code)
	require.Contains(t, r.Stderr, `nftnat: invalid way to serve localhost "fast": it is auto, bpf or proxy`)
	without := func(args ...string) []string {
		const none = "-bpf,-perfmon,-sys_admin"
		return slices.Concat([]string{"--bounding-set=" + none, "--inh-caps=" + none, "--"}, s.command(t, args...).Args)
	}
	cmd := command(t, "setpriv", without("serve", "--loopback", "bpf")...)
	r = labtest.Run(t, top.Host, cmd)
	require.Equal(t, 5, r.Code, r.Stderr)
	require.Regexp(t, `^nftnat: serve localhost by eBPF: [^\n]*not permitted[^\n]* \(run it as root, or give it CAP_(BPF|SYS_ADMIN)[^\n]*\n$`, r.Stderr)
	unmounted := append([]string{"--mount", labtest.Tool(t, "sh"), "-c", `umount -a -t cgroup2 && exec "$@"`, "sh"}, cmd.Args...)
	r = labtest.Run(t, top.Host, command(t, "unshare", unmounted...))
	require.Equal(t, 5, r.Code, r.Stderr)
	require.Regexp(t, `^nftnat: serve localhost by eBPF: open the root control group: no control groups of version 2: [^\n]*not permitted \(run it as root, or give it CAP_SYS_ADMIN; [^\n]*\n$`, r.Stderr)

	labtest.StartCmd(t, top.Host, command(t, "setpriv", without("serve")...))
	await(t, "the daemon to answer", func() bool {
		_, err := s.api.Status(t.Context())
		return err == nil
	})
	s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80")
	labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", "backend")
	l := s.status(t).Loopback
	require.Equal(t, api.LoopbackProxy, l.By)
	require.Contains(t, l.Reason, "not permitted")
	require.Regexp(t, `(?m)^localhost +by proxies, and not by eBPF: `, s.succeed(t, "status"))
}

// Wide ranges are served by one socket where localhost is left to the proxies, and explain knows.
func TestLoopbackProxyRange(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "backend", ":12345")
	s := newTestbed(t, top.Host)
	s.loopback = "proxy"
	s.serve(t)
	s.succeed(t, "add --quiet tcp 10000-14999 172.30.0.2")
	for _, address := range []string{"127.0.0.1:12345", "[::1]:12345"} {
		labtest.Reaches(t, top.Host, "tcp", address, "backend")
	}
	require.Contains(t, s.succeed(t, "explain tcp 12345 --from 127.0.0.1"), "passes by proxy")
	require.Equal(t, []string{"tcp 10000-14999: " + notHeld}, s.status(t).Warnings)
}

// notHeld is what status says of ranges that are too wide to be held by sockets.
const notHeld = "other programs can bind these ports: to hold so many takes eBPF: localhost is served by proxies alone"

// Where another program at bind(2) admits none beside it, localhost is served by eBPF, and the status warns of ranges that are
// too wide to be held by sockets. Who demands eBPF is refused.
func TestLoopbackWithoutBind(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	root, err := bpf.RootGroup()
	require.NoError(t, err)
	name := fmt.Sprintf("nftnat-bind-%d", os.Getpid())
	require.NoError(t, unix.Mkdirat(int(root.Fd()), name, 0o755))
	t.Cleanup(func() {
		require.Eventually(t, func() bool { return unix.Unlinkat(int(root.Fd()), name, unix.AT_REMOVEDIR) == nil }, 5*time.Second, 10*time.Millisecond)
		require.NoError(t, root.Close())
	})
	group, err := unix.Openat(int(root.Fd()), name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.Close(group)) })
	other, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Bind, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, other.Close()) })
	require.NoError(t, link.RawAttachProgram(link.RawAttachProgramOptions{Target: group, Program: other, Attach: ebpf.AttachCGroupInet4Bind}))

	s := newTestbed(t, top.Host)
	serve := func(loopback string) *exec.Cmd { // the group is the root that it sees
		cmd := command(t, "unshare", append([]string{"--cgroup"}, s.command(t, "serve", "--loopback", loopback).Args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: group}
		return cmd
	}
	const taken = "attach the program for bind4: another program is attached to the control group that admits no other beside it"
	r := labtest.Run(t, top.Host, serve("bpf"))
	require.Equal(t, 1, r.Code, r.Stderr)
	require.Contains(t, r.Stderr, "nftnat: serve localhost by eBPF: load programs that hold ports: "+taken)

	labtest.StartCmd(t, top.Host, serve("auto"))
	await(t, "the daemon to answer", func() bool {
		_, err := s.api.Status(t.Context())
		return err == nil
	})
	s.succeed(t, "add --quiet tcp 9000-9999 172.30.0.2")
	require.Empty(t, s.status(t).Warnings)
	s.succeed(t, "add --quiet tcp 10000-11999 172.30.0.2")
	st := s.status(t)
	require.Equal(t, api.LoopbackBPF, st.Loopback.By)
	require.Len(t, st.Warnings, 1)
	require.Contains(t, st.Warnings[0], "tcp 10000-11999: other programs can bind these ports")
	require.Contains(t, st.Warnings[0], taken)
}

// Over UDP, ports that the kernel gives to clients are not served for clients of the other family, nor for those on localhost where
// proxies are to serve them; status, doctor and explain say so.
func TestLoopbackClientPorts(t *testing.T) {
	bothWays(t, clientPorts)
}

func clientPorts(t *testing.T, loopback string) {
	t.Helper()
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1, Forwarding: true})
	labtest.EchoUDP(t, top.Backend1, "backend", ":31000")
	labtest.EchoUDP(t, top.Backend1, "backend", ":40000")
	s := newTestbed(t, top.Host)
	s.loopback = loopback
	require.NoError(t, top.Host.Sysctl("net.ipv4.ip_local_port_range", "32768 60999"))
	s.serve(t)
	s.succeed(t, "add --quiet udp 30000-60999 172.30.0.2")
	warnings := s.status(t).Warnings
	labtest.Reaches(t, top.Host, "udp", "127.0.0.1:31000", "backend")
	says := `udp 32768-60999: clients of the other family are not served: the kernel gives these ports to UDP clients of this host`
	if loopback == "proxy" {
		warnings = slices.DeleteFunc(warnings, func(line string) bool { return line == "udp 30000-60999: "+notHeld })
		says = strings.Replace(says, "clients of", "clients on localhost and of", 1)
		require.Error(t, labtest.NoAnswer(t, top.Host, "udp", "127.0.0.1:40000"))
	} else {
		labtest.Reaches(t, top.Host, "udp", "127.0.0.1:40000", "backend")
	}
	require.Len(t, warnings, 1)
	require.Contains(t, warnings[0], says)
	require.Contains(t, s.run(t, "doctor").Stdout, says)
	require.Contains(t, s.succeed(t, "explain udp 31000 --from 2001:db8:1::2"), "passes by proxy")
	labtest.Reaches(t, top.Client, "udp", "[2001:db8:1::1]:31000", "backend")
	r := s.run(t, "explain udp 40000 --from 2001:db8:1::2")
	require.NotZero(t, r.Code)
	require.Contains(t, r.Stdout, "ip_local_port_range")
}

// A daemon that leaves localhost to proxies binds the ports of ranges while the one before it holds them by eBPF.
func TestLoopbackBPFToProxy(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "backend", ":10500")
	s := newTestbed(t, top.Host)
	s.loopback = "bpf"
	s.serve(t)
	s.succeed(t, "add --quiet tcp 10000-10999 172.30.0.2")
	s.loopback = "proxy"
	next := s.succeedBy(t)
	require.NotContains(t, next.Output(), "has no proxy")
	require.Equal(t, api.LoopbackProxy, s.status(t).Loopback.By)
	labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:10500", "backend")
	_, err := occupy(top.Host, "tcp", "127.0.0.1:10500")
	require.ErrorIs(t, err, unix.EADDRINUSE)
}
