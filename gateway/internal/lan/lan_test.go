// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// wire connects this namespace to another one, which has a route by it.
func wire(t *testing.T, name, addr string, ns *lab.NS, peer string) {
	t.Helper()
	f, err := os.Open(ns.Path())
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: lab.MachineLink, PeerNamespace: netlink.NsFd(int(f.Fd()))}
	require.NoError(t, netlink.LinkAdd(link))
	t.Cleanup(func() { _ = netlink.LinkDel(link) }) // perhaps it is gone
	address, err := netlink.ParseAddr(addr)
	require.NoError(t, err)
	require.NoError(t, netlink.AddrAdd(link, address))
	require.NoError(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/accept_dad", []byte("0"), 0))
	require.NoError(t, netlink.LinkSetUp(link))

	h, err := ns.Handle()
	require.NoError(t, err)
	defer h.Close()
	far, err := h.LinkByName(lab.MachineLink)
	require.NoError(t, err)
	theirs, err := netlink.ParseAddr(peer)
	require.NoError(t, err)
	require.NoError(t, h.AddrReplace(far, theirs))
	require.NoError(t, h.LinkSetUp(far))
	require.NoError(t, h.RouteReplace(&netlink.Route{LinkIndex: far.Attrs().Index, Gw: address.IP, Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}}))
	require.NoError(t, ns.WaitUp())
}

type testbed struct {
	*LAN
	client, stranger *lab.NS
}

// newTestbed makes a host with a LAN and a WAN.
func newTestbed(t *testing.T) *testbed {
	t.Helper()
	b := &testbed{client: labtest.NewNS(t, "client"), stranger: labtest.NewNS(t, "stranger")}
	wire(t, "lan0", "192.168.77.1/24", b.client, "192.168.77.2/24")
	wire(t, "wan0", "198.51.100.1/24", b.stranger, "198.51.100.2/24")
	var err error
	b.LAN, err = Open(Options{Devices: []string{"lan0"}, WAN: "wan0"})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	require.Eventually(t, func() bool {
		d, _ := b.Device("lan0")
		return d.Link6().IsValid()
	}, labtest.Stretch(10*time.Second), time.Millisecond, "the link-local address of the LAN")
	return b
}

// answer has a socket answer each datagram by its own text in brackets.
func answer(t *testing.T, s *Socket) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 1500)
		for {
			p, err := s.Read(buf)
			if err != nil {
				return
			}
			_ = s.Reply(p, []byte("["+string(p.Data)+"] "+p.To.String()+" "+p.Device))
		}
	}()
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		<-ended
	})
}

// ask sends a datagram n times, or with n of zero until it is answered.
func ask(t *testing.T, ns *lab.NS, network, from, to string, n int) (string, error) {
	t.Helper()
	c, err := ns.ListenPacket(network, from)
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	addr, err := net.ResolveUDPAddr(network, to)
	require.NoError(t, err)
	if addr.Zone != "" {
		addr.Zone = "2" // the number of the device there: it is the second
	}
	buf := make([]byte, 1500)
	for i, end := 0, time.Now().Add(15*time.Second); n != 0 && i < n || n == 0 && time.Now().Before(end); i++ {
		_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err = c.WriteTo([]byte("hello"), addr); err != nil { // the link may just have come up
			time.Sleep(20 * time.Millisecond)
			continue
		}
		m, peer, err := c.ReadFrom(buf)
		if err == nil {
			return string(buf[:m]) + " from " + peer.String(), nil
		}
	}
	return "", os.ErrDeadlineExceeded
}

func (b *testbed) dropped(t *testing.T, reason string, do func()) {
	t.Helper()
	before := b.Drops()[reason]
	do()
	require.Greater(t, b.Drops()[reason], before, reason)
}

// Hosts on the LAN are answered, and nobody else is.
func TestServed(t *testing.T) {
	b := newTestbed(t)
	s, err := b.Listen(5351, true)
	require.NoError(t, err)
	answer(t, s)
	text, err := ask(t, b.client, "udp4", "0.0.0.0:0", "192.168.77.1:5351", 0)
	require.NoError(t, err)
	require.Equal(t, "[hello] 192.168.77.1 lan0 from 192.168.77.1:5351", text)
	d, _ := b.Device("lan0")
	link := d.Link6().WithZone("")
	text, err = ask(t, b.client, "udp6", "[::]:0", "["+link.String()+"%"+lab.MachineLink+"]:5351", 0)
	require.NoError(t, err)
	require.Contains(t, text, "[hello] "+link.String()+" lan0 from ["+link.String())

	nobody := func(ns *lab.NS, from, to string) {
		t.Helper()
		_, err := ask(t, ns, "udp4", from, to, 2)
		require.Error(t, err)
	}
	b.dropped(t, "other destination", func() { nobody(b.client, "0.0.0.0:0", "198.51.100.1:5351") })
	b.dropped(t, "other destination", func() { nobody(b.client, "0.0.0.0:0", "192.168.77.255:5351") })
	nobody(b.stranger, "0.0.0.0:0", "198.51.100.1:5351")
	nobody(b.stranger, "0.0.0.0:0", "192.168.77.1:5351")

	h, err := b.client.Handle()
	require.NoError(t, err)
	defer h.Close()
	eth, err := h.LinkByName(lab.MachineLink)
	require.NoError(t, err)
	spoofed, err := netlink.ParseAddr("203.0.113.9/32")
	require.NoError(t, err)
	require.NoError(t, h.AddrAdd(eth, spoofed))
	require.NoError(t, os.WriteFile("/proc/sys/net/ipv4/conf/lan0/rp_filter", []byte("0"), 0))
	b.dropped(t, "off link", func() { nobody(b.client, "203.0.113.9:0", "192.168.77.1:5351") })

	// The port is the gateway's alone.
	_, err = b.Listen(5351, false)
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	require.EqualError(t, err, "listen on the LAN: udp4 port 5351 on lan0: address already in use")
}

func TestGroups(t *testing.T) {
	b := newTestbed(t)
	group := netip.MustParseAddr("239.255.255.250")
	s, err := b.Listen(1900, true, group, netip.MustParseAddr("ff02::c"))
	require.NoError(t, err)
	answer(t, s)
	text, err := ask(t, b.client, "udp4", "192.168.77.2:0", "239.255.255.250:1900", 0)
	require.NoError(t, err)
	require.Equal(t, "[hello] 239.255.255.250 lan0 from 192.168.77.1:1900", text)
	text, err = ask(t, b.client, "udp6", "[::]:0", "[ff02::c%"+lab.MachineLink+"]:1900", 0)
	require.NoError(t, err)
	require.Contains(t, text, "[hello] ff02::c lan0 from [fe80:")

	// What another program joined is nothing for this socket.
	other, err := net.ListenMulticastUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(239, 1, 1, 1), Port: 1900})
	if err == nil {
		defer func() { _ = other.Close() }()
		_, err = ask(t, b.client, "udp4", "192.168.77.2:0", "239.1.1.1:1900", 2)
		require.Error(t, err)
	}

	// Announcements.
	for _, to := range []string{"224.0.0.1:5350", "[ff02::1]:5350"} {
		ap := netip.MustParseAddrPort(to)
		network := "udp4"
		if ap.Addr().Is6() {
			network = "udp6"
		}
		c, err := b.client.ListenPacket(network, ":5350")
		require.NoError(t, err)
		defer func() { _ = c.Close() }()
		raw, err := c.(*net.UDPConn).SyscallConn()
		require.NoError(t, err)
		require.NoError(t, control(raw, func(fd int) error {
			if ap.Addr().Is6() {
				return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: ap.Addr().As16(), Interface: 2})
			}
			return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: ap.Addr().As4(), Ifindex: 2})
		}))
		require.Eventually(t, func() bool { return s.Send("lan0", ap, []byte("news")) == nil }, 10*time.Second, time.Millisecond)
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 100)
		n, _, err := c.ReadFrom(buf)
		require.NoError(t, err, to)
		require.Equal(t, "news", string(buf[:n]))
	}
	require.Error(t, s.Send("wan0", netip.MustParseAddrPort("224.0.0.1:5350"), nil), "it is not served")
}

// A device may go and come again, and its addresses change.
func TestDevicesComeAndGo(t *testing.T) {
	b := newTestbed(t)
	s, err := b.Listen(5351, true)
	require.NoError(t, err)
	answer(t, s)
	tcp, err := b.ListenTCP(0)
	require.NoError(t, err)
	defer func() { require.NoError(t, tcp.Close()) }()
	require.NotZero(t, tcp.Port())
	until := func(is func() bool) {
		t.Helper()
		timeout := time.After(10 * time.Second)
		for {
			changed := b.Changed()
			if is() {
				return
			}
			select {
			case <-changed:
			case <-timeout:
				t.Fatal("it does not follow")
			}
		}
	}
	lan, err := netlink.LinkByName("lan0")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkDel(lan))
	until(func() bool { return len(b.Devices()) == 0 })
	client := labtest.NewNS(t, "client")
	wire(t, "lan0", "192.168.78.1/24", client, "192.168.78.2/24")
	until(func() bool { d, _ := b.Device("lan0"); return d.Addr4().String() == "192.168.78.1" && d.Up })
	text, err := ask(t, client, "udp4", "0.0.0.0:0", "192.168.78.1:5351", 0)
	require.NoError(t, err)
	require.Equal(t, "[hello] 192.168.78.1 lan0 from 192.168.78.1:5351", text)

	wan, err := netlink.LinkByName("wan0")
	require.NoError(t, err)
	old, err := netlink.ParseAddr("198.51.100.1/24")
	require.NoError(t, err)
	require.NoError(t, netlink.AddrDel(wan, old))
	until(func() bool { d, _ := b.WAN(); return !d.Addr4().IsValid() })
	is, err := netlink.ParseAddr("198.51.100.9/24")
	require.NoError(t, err)
	require.NoError(t, netlink.AddrAdd(wan, is))
	until(func() bool { d, _ := b.WAN(); return d.Addr4().IsValid() })
	d, ok := b.WAN()
	require.True(t, ok)
	require.InDelta(t, boottime(), d.Since[0], 5, "when the address was added")
}

func TestTCP(t *testing.T) {
	b := newTestbed(t)
	l, err := b.ListenTCP(5000)
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.WriteString(c, c.(*Conn).Device())
				_, _ = c.Read(make([]byte, 1)) // until the client closes
				_ = c.Close()
			}()
		}
	}()
	defer func() {
		require.NoError(t, l.Close())
		<-ended
	}()
	dial := func(ns *lab.NS, to string) (net.Conn, string) {
		limit := 300 * time.Millisecond
		if ns == b.client && !strings.HasPrefix(to, "198.") {
			limit = 10 * time.Second
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		c, err := ns.Dial(ctx, "tcp", to)
		if err != nil {
			return nil, ""
		}
		buf := make([]byte, 10)
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := c.Read(buf)
		if err != nil {
			_ = c.Close()
			return nil, ""
		}
		return c, string(buf[:n])
	}
	var open []net.Conn
	for range maxConnsOfASource {
		c, text := dial(b.client, "192.168.77.1:5000")
		require.Equal(t, "lan0", text)
		open = append(open, c)
	}
	b.dropped(t, "connections", func() {
		c, _ := dial(b.client, "192.168.77.1:5000")
		require.Nil(t, c)
	})
	for _, c := range open {
		_ = c.Close()
	}
	require.Eventually(t, func() bool {
		c, text := dial(b.client, "192.168.77.1:5000")
		if c != nil {
			_ = c.Close()
		}
		return text == "lan0"
	}, 10*time.Second, 10*time.Millisecond)
	d, _ := b.Device("lan0")
	c, text := dial(b.client, netip.AddrPortFrom(d.Link6().WithZone(lab.MachineLink), 5000).String())
	require.Equal(t, "lan0", text)
	require.NoError(t, c.Close())
	b.dropped(t, "other destination", func() {
		c, _ := dial(b.client, "198.51.100.1:5000")
		require.Nil(t, c)
	})
	for _, to := range []string{"198.51.100.1:5000", "192.168.77.1:5000"} {
		c, _ := dial(b.stranger, to)
		require.Nil(t, c)
	}
}

// What is longer than a datagram of these protocols is cut, and its sender told apart.
func TestLongDatagrams(t *testing.T) {
	b := newTestbed(t)
	s, err := b.Listen(5351, false)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	c, err := b.client.ListenPacket("udp4", "0.0.0.0:0")
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	buf := make([]byte, 1104)
	for _, n := range []int{0, 1, 1104, 1105, 1472, 9000} {
		_, err = c.WriteTo(make([]byte, n), &net.UDPAddr{IP: net.IPv4(192, 168, 77, 1), Port: 5351})
		require.NoError(t, err)
		p, err := s.Read(buf)
		require.NoError(t, err)
		require.Len(t, p.Data, min(n, len(buf)))
		require.Equal(t, n > len(buf), p.Truncated, n)
	}
}

func TestNoDevice(t *testing.T) {
	labtest.Require(t)
	_, err := Open(Options{})
	require.EqualError(t, err, "open LAN: no device is given")
	l, err := Open(Options{Devices: []string{"none0"}})
	require.NoError(t, err)
	defer l.Close()
	s, err := l.Listen(5351, true)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	_, err = s.Read(nil)
	require.ErrorIs(t, err, net.ErrClosed)
	require.Empty(t, l.Devices())
}
