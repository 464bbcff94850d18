// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// seesAllProcesses reports whether this test can tell that no process has a socket.
func seesAllProcesses(t *testing.T) bool {
	t.Helper()
	pids, err := os.Readlink("/proc/self/ns/pid")
	require.NoError(t, err)
	users, err := os.Readlink("/proc/self/ns/user")
	require.NoError(t, err)
	_, err = os.Readlink("/proc/1/exe") // some machines keep it even from root
	return err == nil && pids == "pid:[4026531836]" && users == "user:[4026531837]"
}

// A port of the kernel's own is said to be that, with the interface, by the command and by
// the daemon.
func TestHeldByKernel(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	s.serve(t)
	for _, args := range []string{
		"link add vx0 type vxlan id 5 dstport 4789 dev " + lab.HostBridge, "link set vx0 up",
		"link add vx6 type vxlan id 6 dstport 4790 remote fd00:30::2", "link set vx6 up",
		"link add away type vxlan id 7 dstport 4791",
	} {
		labtest.Exec(t, top.Host, "ip", strings.Fields(args)...)
	}
	refused := func(line, want string) {
		t.Helper()
		r := s.run(t, "add "+line)
		require.Equal(t, 3, r.Code, r.Stderr)
		require.Equal(t, "nftnat: publish udp "+strings.Fields(line)[1]+": "+want+"\n", r.Stderr)
	}
	refused("udp 4789 172.30.0.2:80", "udp 0.0.0.0:4789 is held by the kernel (vxlan interface vx0)")
	refused("udp 192.0.2.1:4789 172.30.0.2:80", "udp 0.0.0.0:4789 is held by the kernel (vxlan interface vx0)")
	refused("udp [::]:4790 [fd00:30::2]:80", "udp [::]:4790 is held by the kernel (vxlan interface vx6)")
	s.succeed(t, "add --quiet tcp 4789 172.30.0.2:80")

	m, err := nat.ParseMappingText("4789->172.30.0.2:80/udp")
	require.NoError(t, err)
	_, err = s.api.Publish(t.Context(), nat.PublishOptions{}, m)
	var held *nat.HeldError
	require.ErrorAs(t, err, &held)
	require.True(t, held.Kernel)
	require.Equal(t, "vxlan interface vx0", held.Purpose)

	// The interface that was made here is in another namespace, and its socket is not.
	labtest.Exec(t, top.Host, "ip", "link", "set", "away", "netns", top.Backend1.Path())
	labtest.Exec(t, top.Backend1, "ip", "link", "set", "away", "up")
	want := "udp 0.0.0.0:4791 is held by the kernel: no process has the socket"
	if !seesAllProcesses(t) {
		want = "udp 0.0.0.0:4791 is held by a process of uid 0 or by the kernel"
	}
	refused("udp 4791 172.30.0.2:80", want)
	// And where it is now, a process has the port.
	holder, err := occupy(top.Backend1, "udp", "0.0.0.0:4791")
	require.NoError(t, err)
	defer func() { require.NoError(t, holder.Close()) }()
	other := newTestbed(t, top.Backend1)
	require.Contains(t, other.run(t, "add udp 4791 172.30.0.9:80").Stderr, "held by "+myself(t))
}

// A process that merely cannot be seen is not taken for the kernel.
func TestHeldByTheUnseen(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	s.serve(t)
	holder, err := occupy(top.Host, "udp", "0.0.0.0:8080")
	require.NoError(t, err)
	defer func() { require.NoError(t, holder.Close()) }()
	const want = "nftnat: publish udp 8080: udp 0.0.0.0:8080 is held by a process of uid 0 or by the kernel\n"
	add := s.command(t, "add", "udp", "8080", "172.30.0.2:80").Args
	for _, around := range []string{
		"unshare --pid --fork --mount-proc --",
		"setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all --",
		"unshare --mount -- sh -c",
	} {
		fields := strings.Fields(around)
		args := append(fields[1:], add...)
		if strings.HasSuffix(around, "sh -c") {
			hide := "mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid=1000 --clear-groups --bounding-set=-all --inh-caps=-all -- " + strings.Join(add, " ")
			require.NoError(t, os.Chmod(s.socket, 0o666))
			require.NoError(t, os.Chmod(strings.TrimSuffix(s.socket, "/nftnat.sock"), 0o755))
			args = append(fields[1:], hide)
		}
		r := labtest.Run(t, top.Host, command(t, fields[0], args...))
		require.Equal(t, 3, r.Code, r.Stderr)
		if hasLandlock() || !strings.HasPrefix(r.Stderr, "nftnat: publish udp 8080: udp 0.0.0.0:8080 is held by "+myself(t)) {
			require.Equal(t, want, r.Stderr, around)
		}
	}
}

// A client that has the port is said to be that.
func TestHeldByClient(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	s.serve(t)
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend", ":80")
		for _, backend := range []string{"172.30.0.2:80", "[fd00:30::2]:80"} {
			client := dialFlow(t, top.Host, network, backend)
			require.Equal(t, "backend", client.name(t))
			add := fmt.Sprintf("add %s %d 172.30.0.2:80", network, client.local().Port())
			require.Contains(t, s.run(t, add).Stderr, fmt.Sprintf("%s %s is held by %s as a client of %s: try again\n", network, client.local(), myself(t), backend))
			require.NoError(t, client.conn.Close())
			if network == "tcp" { // now it belongs to no process
				await(t, "the connection to end", func() bool {
					return strings.HasSuffix(s.run(t, add).Stderr, fmt.Sprintf("%s is held by a connection with %s that ended less than a minute ago: try again\n", client.local(), backend))
				})
				m := nat.Mapping{Proto: nat.TCP, Frontend: netip.AddrPortFrom(netip.Addr{}, client.local().Port()), Backend: netip.MustParseAddrPort("172.30.0.2:80")}
				_, err := s.api.Publish(t.Context(), nat.PublishOptions{}, m)
				var held *nat.HeldError
				require.ErrorAs(t, err, &held)
				require.True(t, held.Ended)
				require.True(t, held.Ephemeral)
				require.Equal(t, backend, held.Peer.String())
			}
		}
	}
}

// Where a resolver has port 53, the error says how to publish it, and that works.
func TestHeldByResolver(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	s.serve(t)
	advised := regexp.MustCompile(`"nftnat add (udp|tcp) (\S+) \.\.\."`)
	follow := func(network, backend, want string) {
		t.Helper()
		r := s.run(t, "add "+network+" 53 "+backend)
		require.Equal(t, 3, r.Code, r.Stderr)
		require.Regexp(t, want, r.Stderr)
		found := advised.FindStringSubmatch(r.Stderr)
		require.NotNil(t, found, r.Stderr)
		require.Equal(t, network, found[1])
		if !strings.Contains(r.Stderr, "have it listen") {
			s.succeed(t, "add --quiet "+network+" "+found[2]+" "+backend)
			s.succeed(t, "rm "+network+" "+found[2])
		}
	}
	for _, network := range []string{"udp", "tcp"} {
		stub, err := occupy(top.Host, network, "127.0.0.53:53")
		require.NoError(t, err)
		follow(network, "172.30.0.2:53", `: `+network+` 127\.0\.0\.53:53 is held by .*: publish one address, .* or set DNSStubListener=no in resolved.conf\n$`)
		follow(network, "[fd00:30::2]:53", `: publish one address, as with "nftnat add `+network+` \[`)
		s.succeed(t, "add --quiet "+network+" [::]:53 [fd00:30::2]:53") // is not in its way
		s.succeed(t, "rm "+network+" [::]:53")
		require.NoError(t, stub.Close())
	}
	// As libvirt does for the addresses of its bridge, and as dnsmasq does by itself.
	for _, c := range []struct{ args, want string }{
		{"--bind-interfaces --listen-address=172.30.0.1", `: publish one address, as with`},
		{"", `: have it listen on one address \(bind-interfaces and listen-address=127\.0\.0\.1\) and publish another, as with`},
	} {
		args := append([]string{"--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--no-hosts", "--user=root"}, strings.Fields(c.args)...)
		p := labtest.Start(t, top.Host, "dnsmasq", args...)
		await(t, "dnsmasq to listen", func() bool { return strings.Contains(sockets(t, top.Host), ":53 ") })
		for _, network := range []string{"udp", "tcp"} {
			follow(network, "172.30.0.2:53", fmt.Sprintf(`is held by dnsmasq \(pid %d\)%s`, p.Pid, c.want))
		}
		p.Kill()
		await(t, "dnsmasq to end", func() bool { return !strings.Contains(sockets(t, top.Host), ":53 ") })
	}
}
