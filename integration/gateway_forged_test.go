// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// wireSocket is a packet(7) socket of a namespace's device.
type wireSocket struct {
	fd, index int
}

func newWireSocket(t *testing.T, ns *lab.NS) *wireSocket {
	t.Helper()
	w := &wireSocket{}
	require.NoError(t, ns.Do(func() (err error) {
		device, err := net.InterfaceByName(lab.MachineLink)
		if err != nil {
			return err
		}
		w.index = device.Index
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(all))
		return err
	}))
	t.Cleanup(func() { require.NoError(t, unix.Close(w.fd)) })
	return w
}

// send sends a packet of IP to an address of a device.
func (w *wireSocket) send(t *testing.T, to net.HardwareAddr, packet []byte) {
	t.Helper()
	proto := uint16(unix.ETH_P_IP)
	if packet[0]>>4 == 6 {
		proto = unix.ETH_P_IPV6
	}
	a := &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, proto)), Ifindex: w.index, Halen: 6}
	copy(a.Addr[:], to)
	require.NoError(t, unix.Sendto(w.fd, packet, 0, a))
}

// answers returns the packets that have come from a port of UDP, but for those to groups.
func (w *wireSocket) answers() (found [][]byte) {
	buf := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(w.fd, buf, 0)
		if err != nil {
			return found
		}
		p := buf[:n]
		if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype == unix.PACKET_OUTGOING || n < 48 {
			continue
		}
		udp, group := p[20:], p[16]>>4 == 14
		if p[0]>>4 == 6 {
			udp, group = p[40:], p[24] == 0xff
		}
		if port := binary.BigEndian.Uint16(udp); !group && (port == 5351 || port == 1900) {
			found = append(found, slices.Clone(p))
		}
	}
}

// datagram makes a packet of UDP, from a port of clients.
func datagram(from, to netip.Addr, port uint16, data []byte) []byte {
	udp := binary.BigEndian.AppendUint16(nil, 5350)
	udp = binary.BigEndian.AppendUint16(udp, port)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(data)))
	udp = append(append(udp, 0, 0), data...)
	if to.Is4() {
		ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
		ip = append(append(ip, from.AsSlice()...), to.AsSlice()...)
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(udp)))
		binary.BigEndian.PutUint16(ip[10:], checksum(ip))
		return append(ip, udp...) // without a checksum, as IPv4 allows
	}
	source, target := from.As16(), to.As16()
	pseudo := append(slices.Concat(source[:], target[:]), 0, 0, 0, 0, 0, 0, 0, unix.IPPROTO_UDP)
	binary.BigEndian.PutUint16(pseudo[34:], uint16(len(udp)))
	sum := slices.Concat(pseudo, udp)
	if len(sum)%2 != 0 {
		sum = append(sum, 0)
	}
	binary.BigEndian.PutUint16(udp[6:], checksum(sum))
	ip := []byte{0x60, 0, 0, 0, 0, 0, unix.IPPROTO_UDP, 64}
	binary.BigEndian.PutUint16(ip[4:], uint16(len(udp)))
	return append(slices.Concat(ip, source[:], target[:]), udp...)
}

// Forged sources get no answer and change nothing, even where the kernel lets their packets in.
func TestGatewayForged(t *testing.T) {
	b := newGatewayTestbed(t, lab.HostLAN)
	b.start(t)
	hardware, links := map[string]net.HardwareAddr{}, map[string]netip.Addr{}
	require.NoError(t, b.ns.Do(func() error {
		for _, name := range []string{lab.HostLAN, lab.HostFar} {
			device, err := net.InterfaceByName(name)
			if err != nil {
				return err
			}
			hardware[name] = device.HardwareAddr
			addrs, err := device.Addrs()
			if err != nil {
				return err
			}
			for _, a := range addrs {
				if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
					links[name] = p.Addr()
				}
			}
		}
		return nil
	}))
	for _, name := range []string{"all", lab.HostLAN, lab.HostFar} {
		require.NoError(t, b.ns.Sysctl("net.ipv4.conf."+name+".rp_filter", "0"))
		require.NoError(t, b.ns.Sysctl("net.ipv4.conf."+name+".accept_local", "1"))
	}
	one, far := newWireSocket(t, b.one), newWireSocket(t, b.far)
	flood := func(w *wireSocket, device string, sources, targets []string) {
		t.Helper()
		for _, source := range sources {
			for _, target := range targets {
				from, to := netip.MustParseAddr(source), netip.MustParseAddr(target)
				client := from.As16()
				mapping := slices.Concat([]byte{2, 1, 0, 0, 0, 0, 0x0e, 0x10}, client[:], []byte("nonce nonce!"), []byte{17, 0, 0, 0, 0x13, 0x89, 0x13, 0x89}, make([]byte, 16))
				for _, q := range [][]byte{{0, 0}, pmpRequest(pmpUDP, 5000, 5000, 3600), mapping, {3, 0}} {
					w.send(t, hardware[device], datagram(from, to, 5351, q))
				}
				w.send(t, hardware[device], datagram(from, to, 1900, []byte("M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nST: upnp:rootdevice\r\nMAN: \"ssdp:discover\"\r\nMX: 0\r\n\r\n")))
			}
		}
	}
	flood(one, lab.HostLAN,
		[]string{"192.0.2.1", "192.0.2.9", wanAddress, "192.0.2.255", "192.0.2.0", "255.255.255.255", "0.0.0.0", "127.0.0.1", "10.9.9.9", "224.0.0.1", "169.254.1.1", farAddress},
		[]string{"192.0.2.1", wanAddress, "192.0.2.255", "255.255.255.255", "224.0.0.1", "239.255.255.250", "127.0.0.1"})
	flood(far, lab.HostFar,
		[]string{"192.0.2.2", "192.0.2.3", "192.0.2.1", farAddress, wanAddress, "0.0.0.0"},
		[]string{"192.0.2.1", wanAddress, "224.0.0.1", "239.255.255.250", "255.255.255.255"})
	flood(one, lab.HostLAN,
		[]string{"::ffff:192.0.2.2", "::", "::1", links[lab.HostLAN].String(), b.address6, "ff02::1", "2001:db8:99::1", "::192.0.2.2"},
		[]string{links[lab.HostLAN].String(), b.address6, "ff02::c", "ff02::1"})
	flood(far, lab.HostFar, []string{"fe80::1234", "2001:db8:1::2", "2001:db8:2::2"}, []string{links[lab.HostFar].String(), links[lab.HostLAN].String(), b.address6, "ff02::c"})

	// Who asks as it should is answered, after all that has come before.
	_, _ = b.dial(t, b.one).wan(t)
	search := func(mx string) []byte {
		return datagram(b.one.V4, netip.MustParseAddr("192.0.2.1"), 1900, []byte("M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nST: upnp:rootdevice\r\nMAN: \"ssdp:discover\"\r\n"+mx+"\r\n"))
	}
	// What is no search, or not written as one, is not answered.
	valid := string(search(""))
	for _, change := range []func(string) string{
		func(s string) string { return strings.Replace(s, "M-SEARCH *", "M-SEARCH /", 1) },
		func(s string) string { return strings.Replace(s, "HOST: 239", " HOST: 239", 1) }, // a folded line
		func(s string) string {
			return strings.Replace(s, "HOST: 239.255.255.250:1900", "ST: upnp:rootdevice", 1)
		},
		func(s string) string { return strings.Replace(s, "ssdp:discover", "ssdp:discovex", 1) },
		func(s string) string { return strings.Replace(s, "HTTP/1.1", "HTTP/9.9", 1) },
	} {
		q := change(valid)[28:]
		one.send(t, hardware[lab.HostLAN], datagram(b.one.V4, netip.MustParseAddr("192.0.2.1"), 1900, []byte(q)))
	}
	for _, mx := range []string{"MX: -1\r\n", "MX: x\r\n", "MX: 99999999\r\n", "MX: 1\r\nMX: 1\r\n"} {
		one.send(t, hardware[lab.HostLAN], search(mx))
	}
	time.Sleep(labtest.Stretch(200 * time.Millisecond))
	_, _ = b.dial(t, b.one).wan(t)
	for _, a := range slices.Concat(one.answers(), far.answers()) {
		if a[0]>>4 == 4 && binary.BigEndian.Uint16(a[20:]) == 5351 && netip.AddrFrom4([4]byte(a[16:])) == b.one.V4 {
			continue // to those that ask as they should
		}
		require.Fail(t, "it was answered", "%q", a)
	}
	one.send(t, hardware[lab.HostLAN], search(""))
	await(t, "the answer to a search", func() bool {
		return slices.ContainsFunc(one.answers(), func(a []byte) bool { return binary.BigEndian.Uint16(a[20:]) == 1900 && len(a) <= 3*len(search("")) })
	})
	require.Equal(t, "[]", strings.TrimSpace(b.succeed(t, "ls --json")))
	require.Empty(t, b.state(t).Leases)
	require.Positive(t, b.state(t).Drops["off link"])
}
