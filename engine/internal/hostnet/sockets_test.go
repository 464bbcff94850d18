// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/process"
	"github.com/nftnat/nftnat/nat"
)

// The socket of a listener is found, one of another protocol is not; one of a connection has
// a peer.
func TestSocketsAt(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	at := netip.MustParseAddrPort(l.Addr().String())
	found, err := SocketsAt(&Namespace{}, nat.TCP, at.Port())
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, at, found[0].Addr)
	require.NotZero(t, found[0].Inode)
	require.False(t, found[0].Ended)
	require.False(t, found[0].Peer.IsValid())
	found, err = SocketsAt(&Namespace{}, nat.UDP, at.Port())
	require.NoError(t, err)
	require.Empty(t, found)

	c, err := net.Dial("tcp4", at.String())
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	client := netip.MustParseAddrPort(c.LocalAddr().String())
	found, err = SocketsAt(&Namespace{}, nat.TCP, client.Port())
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, at, found[0].Peer)
	pid, command, none := process.Find(found[0].Inode)
	require.Equal(t, os.Getpid(), pid)
	require.NotEmpty(t, command)
	require.False(t, none)

	for port, want := range map[uint16]bool{client.Port(): true, 80: false} {
		gives, err := Sysctls{Namespace: &Namespace{}}.GivesToClients(port)
		require.NoError(t, err)
		require.Equal(t, want, gives)
	}
	_, err = Sysctls{Namespace: &Namespace{}, Root: t.TempDir()}.GivesToClients(80)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// An interface tells that the kernel has a port only if it is up, and for the families and
// addresses of its socket.
func TestTunnelOf(t *testing.T) {
	up := func(name string) netlink.LinkAttrs {
		return netlink.LinkAttrs{Name: name, Flags: net.FlagUp, NetNsID: -1}
	}
	down, away := up("down"), up("away")
	down.Flags, away.NetNsID = 0, 0
	bound := &netlink.Vxlan{LinkAttrs: up("vx4"), Port: 4792, SrcAddr: net.IPv4(192, 0, 2, 1)}
	links := []netlink.Link{
		&netlink.Device{LinkAttrs: up("eth0")},
		&netlink.Vxlan{LinkAttrs: down, Port: 4789}, &netlink.Vxlan{LinkAttrs: away, Port: 4789},
		&netlink.Vxlan{LinkAttrs: up("vx0"), Port: 4790}, &netlink.Vxlan{LinkAttrs: up("vx1"), Port: 4791, FlowBased: true},
		bound, &netlink.Vxlan{LinkAttrs: up("vx6"), Port: 4793, Group: net.ParseIP("ff05::1")},
		&netlink.Geneve{LinkAttrs: up("gen0"), Dport: 6081, Remote: net.IPv4(192, 0, 2, 2)},
		&netlink.BareUDP{LinkAttrs: up("bare0"), Port: 6635},
	}
	for at, want := range map[string]string{
		"0.0.0.0:4789": "", "0.0.0.0:4790": "vxlan interface vx0", "[::]:4790": "",
		"0.0.0.0:4791": "vxlan interface vx1", "[::]:4791": "vxlan interface vx1",
		"0.0.0.0:4792": "vxlan interface vx4", "192.0.2.1:4792": "vxlan interface vx4", "192.0.2.9:4792": "",
		"[::]:4793": "vxlan interface vx6", "0.0.0.0:4793": "",
		"0.0.0.0:6081": "geneve interface gen0", "[::]:6081": "", "[::]:6635": "bareudp interface bare0",
	} {
		name, certain := tunnelOf(links, netip.MustParseAddrPort(at))
		require.Equal(t, want, name, at)
		require.Equal(t, want != "", certain, at)
	}
	links = append(links, &netlink.Wireguard{LinkAttrs: up("wg0")}, &netlink.Wireguard{LinkAttrs: up("wg1")})
	name, certain := tunnelOf(links, netip.MustParseAddrPort("0.0.0.0:51820"))
	require.Equal(t, "perhaps wireguard interface wg0 or wireguard interface wg1", name)
	require.False(t, certain)
	name, _ = tunnelOf(links, netip.MustParseAddrPort("192.0.2.1:51820"))
	require.Empty(t, name)
}

// The kernel's socket has an inode and a user, as one of a process.
func TestTunnelAt(t *testing.T) {
	ns := labtest.NewNS(t, "tunnel")
	labtest.Exec(t, ns, "ip", "link", "add", "vx0", "type", "vxlan", "dstport", "4789", "external")
	labtest.Exec(t, ns, "ip", "link", "set", "vx0", "up")
	opened, err := OpenNamespace(ns.Path())
	require.NoError(t, err)
	defer func() { require.NoError(t, opened.Close()) }()
	found, err := SocketsAt(opened, nat.UDP, 4789)
	require.NoError(t, err)
	require.Len(t, found, 2)
	for _, s := range found {
		require.NotZero(t, s.Inode)
		name, certain, err := TunnelAt(opened, s.Addr)
		require.NoError(t, err)
		require.Equal(t, "vxlan interface vx0", name)
		require.True(t, certain)
		pid, _, none := process.Find(s.Inode)
		require.Zero(t, pid)
		_, err = os.Readlink("/proc/1/exe") // some machines keep it even from root
		require.Equal(t, process.SeesAll() && err == nil, none)
	}
}

// Connections of both families are listed from the first SYN to the last FIN, those that nobody has accepted too.
func TestConnections(t *testing.T) {
	labtest.Require(t)
	lab := labtest.NewNS(t, "host")
	ns, err := OpenNamespace(lab.Path())
	require.NoError(t, err)
	defer func() { require.NoError(t, ns.Close()) }()
	list := func(first, last uint16) (found []Connection) {
		require.NoError(t, Connections(ns, PortRange{first, last}, func(c Connection) { found = append(found, c) }))
		return found
	}
	var l net.Listener
	require.NoError(t, ns.Do(func() (err error) {
		l, err = net.Listen("tcp", "[::]:8080")
		return err
	}))
	defer l.Close()
	require.Empty(t, list(1, 65535))
	for _, host := range []string{"127.0.0.1", "::1"} {
		addr := netip.MustParseAddr(host)
		var c net.Conn
		require.NoError(t, ns.Do(func() (err error) {
			c, err = net.Dial("tcp", net.JoinHostPort(host, "8080"))
			return err
		}))
		client := c.LocalAddr().(*net.TCPAddr).AddrPort()
		server := netip.AddrPortFrom(addr, 8080)
		require.Equal(t, []Connection{{Local: server, Peer: client}}, list(8080, 8080))
		require.ElementsMatch(t, []Connection{{Local: server, Peer: client}, {Local: client, Peer: server}}, list(1024, 65535))
		require.Empty(t, list(8081, 8090))
		served, err := l.Accept()
		require.NoError(t, err)
		require.NoError(t, served.(*net.TCPConn).CloseWrite())
		require.Eventually(t, func() bool {
			found := list(8080, 8080)
			return len(found) == 1 && found[0] == Connection{Local: server, Peer: client, Closing: true}
		}, 10*time.Second, time.Millisecond)
		require.False(t, list(client.Port(), client.Port())[0].Closing, "the client may go on")
		require.NoError(t, c.Close())
		require.Eventually(t, func() bool { return len(list(1, 65535)) == 0 }, 10*time.Second, time.Millisecond, "TIME_WAIT is the end")
		require.NoError(t, served.Close())
	}
}
