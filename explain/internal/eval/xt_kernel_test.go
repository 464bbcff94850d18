// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/nlwire"
	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/internal/rules/xt"
)

// unknowable are the rules of which Maybe is the right answer.
var unknowable = regexp.MustCompile(`-m (limit|hashlimit|connlimit|connbytes|quota|string|u32|bpf|cluster|realm|cpu|osf|` +
	`connlabel|socket|cgroup|eui64)\b|--ctexpire|--tcp-option|--mss|--kerneltz|probability 0.5|--every 3|--packets-gt`)

// identifier are the rules that compare the identifier of an ICMP packet.
var identifier = regexp.MustCompile(`--ct(origsrc|replsrc|repldst)port`)

func isLimit(e rules.Expr) bool {
	_, ok := e.(rules.Limit)
	return ok
}

// counted are the namespaces and packets of TestXTKernel.
type counted struct {
	t                    *testing.T
	host, client, server *lab.NS
	fd                   int
	sets                 *xt.Sets
	in, out              Interface
}

const (
	hostMAC   = "02:00:00:00:00:01"
	clientMAC = "02:00:00:00:00:02"
)

func newCounted(t *testing.T) *counted {
	t.Helper()
	w := &counted{t: t, host: labtest.NewNS(t, "host"), client: labtest.NewNS(t, "client"), server: labtest.NewNS(t, "server")}
	shell := func(ns *lab.NS, commands ...string) {
		for _, c := range commands {
			args := strings.Fields(c)
			labtest.Exec(t, ns, args[0], args[1:]...)
		}
	}
	shell(w.host,
		"ip link add eth0 address "+hostMAC+" type veth peer name eth0 address "+clientMAC+" netns "+w.client.Path(),
		"ip link add eth1 address 02:00:00:00:01:01 type veth peer name eth0 address 02:00:00:00:01:02 netns "+w.server.Path(),
		"ip link set eth0 group 7", "ip link set eth0 up", "ip link set eth1 up", "ip link set lo up",
		"ip addr add 192.0.2.1/24 brd 192.0.2.255 dev eth0", "ip addr add 2001:db8::1/64 dev eth0 nodad",
		"ip addr add 198.51.100.1/24 dev eth1", "ip addr add 2001:db8:1::1/64 dev eth1 nodad",
		"ip neigh add 2001:db8::2 lladdr "+clientMAC+" dev eth0 nud permanent",
		"ip neigh add 192.0.2.2 lladdr "+clientMAC+" dev eth0 nud permanent",
		"ip neigh add 2001:db8:1::2 lladdr 02:00:00:00:01:02 dev eth1 nud permanent",
		"ip neigh add 198.51.100.2 lladdr 02:00:00:00:01:02 dev eth1 nud permanent",
	)
	require.NoError(t, w.host.Sysctl("net.ipv4.ip_forward", "1"))
	require.NoError(t, w.host.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	shell(w.client,
		"ip link set eth0 up", "ip link set lo up",
		"ip addr add 192.0.2.2/24 brd 192.0.2.255 dev eth0", "ip addr add 2001:db8::2/64 dev eth0 nodad",
		"ip neigh add 2001:db8::1 lladdr "+hostMAC+" dev eth0 nud permanent",
		"ip neigh add 192.0.2.1 lladdr "+hostMAC+" dev eth0 nud permanent",
		"ip route add default via 192.0.2.1", "ip -6 route add default via 2001:db8::1",
	)
	shell(w.server,
		"ip link set eth0 up", "ip addr add 198.51.100.2/24 dev eth0", "ip addr add 2001:db8:1::2/64 dev eth0 nodad",
		"ip neigh add 2001:db8:1::1 lladdr 02:00:00:00:01:01 dev eth0 nud permanent",
		"ip neigh add 198.51.100.1 lladdr 02:00:00:00:01:01 dev eth0 nud permanent",
		"ip route add default via 198.51.100.1", "ip -6 route add default via 2001:db8:1::1",
	)
	f, err := os.Open(w.host.Path())
	require.NoError(t, err)
	w.fd = int(f.Fd())
	w.sets, err = xt.OpenSets(w.fd)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, w.sets.Close())
		require.NoError(t, f.Close())
	})
	w.in = Interface{Index: 1, Name: "eth0", Type: unix.ARPHRD_ETHER, Group: 7}
	w.out = Interface{Index: 2, Name: "eth1", Type: unix.ARPHRD_ETHER}
	w.makeSets()
	return w
}

// makeSets makes sets of ipset of the types that the kernel has.
func (w *counted) makeSets() {
	const (
		four, six = unix.AF_INET, unix.AF_INET6
		tcp, udp  = unix.IPPROTO_TCP, unix.IPPROTO_UDP
		counters  = 1 << 3
	)
	ip := func(attr uint16, a string) []byte {
		b, at := nlwire.OpenAttr(nil, attr|nlwire.Nested)
		addr := netip.MustParseAddr(a)
		which := uint16(1)
		if addr.Is6() {
			which = 2
		}
		return nlwire.CloseAttr(nlwire.AppendAttr(b, which|unix.NLA_F_NET_BYTEORDER, addr.AsSlice()...), at)
	}
	num := func(attr uint16, v byte) []byte { return nlwire.AppendAttr(nil, attr, v) }
	be16 := func(attr, v uint16) []byte {
		return nlwire.AppendAttr(nil, attr|unix.NLA_F_NET_BYTEORDER, byte(v>>8), byte(v))
	}
	name := func(attr uint16, v string) []byte { return nlwire.AppendString(nil, attr, v) }
	element := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	// IPSET_ATTR_IP 1, IP_TO 2, CIDR 3, PORT 4, PORT_TO 5, PROTO 7, CADT_FLAGS 8, NAME 18, IP2 20, CIDR2 21, IFACE 23.
	for _, set := range []struct {
		name, typ        string
		family, revision uint8
		create           []byte
		elements         [][]byte
	}{
		{"ip", "hash:ip", four, 4, nil, [][]byte{ip(1, "192.0.2.2")}},
		{"net", "hash:net", four, 6, nil, [][]byte{element(ip(1, "192.0.2.0"), num(3, 25))}},
		{"netx", "hash:net", four, 6, nil, [][]byte{element(ip(1, "198.51.100.0"), num(3, 24))}},
		{"nomatch", "hash:net", four, 6, nil, [][]byte{
			element(ip(1, "192.0.2.0"), num(3, 24)),
			element(ip(1, "192.0.2.2"), num(3, 32), nlwire.AppendBE32(nil, 8|unix.NLA_F_NET_BYTEORDER, 1<<2)),
		}},
		{"ipport", "hash:ip,port", four, 5, nil, [][]byte{
			element(ip(1, "192.0.2.2"), be16(4, 8080), num(7, tcp)), element(ip(1, "192.0.2.1"), be16(4, 53), num(7, udp)),
			element(ip(1, "192.0.2.1"), be16(4, 8<<8), num(7, unix.IPPROTO_ICMP)),
		}},
		{"ports", "bitmap:port", 0, 3, element(be16(4, 1), be16(5, 9000)), [][]byte{be16(4, 8080), be16(4, 53)}},
		{"bip", "bitmap:ip", four, 3, element(ip(1, "192.0.2.0"), ip(2, "192.0.2.127")), [][]byte{ip(1, "192.0.2.2")}},
		{"ipportip", "hash:ip,port,ip", four, 5, nil, [][]byte{
			element(ip(1, "192.0.2.2"), be16(4, 8080), num(7, tcp), ip(20, "192.0.2.1")),
		}},
		{"ipportnet", "hash:ip,port,net", four, 7, nil, [][]byte{
			element(ip(1, "192.0.2.2"), be16(4, 53), num(7, udp), ip(20, "192.0.2.0"), num(21, 24)),
		}},
		{"netport", "hash:net,port", four, 7, nil, [][]byte{
			element(ip(1, "192.0.2.0"), num(3, 30), be16(4, 8080), num(7, tcp)),
		}},
		{"netiface", "hash:net,iface", four, 7, nil, [][]byte{element(ip(1, "192.0.2.0"), num(3, 30), name(23, "eth0"))}},
		{"six", "hash:ip", six, 4, nil, [][]byte{ip(1, "2001:db8::2")}},
		{"sixport", "hash:net,port", six, 7, nil, [][]byte{
			element(ip(1, "2001:db8::"), num(3, 64), be16(4, 8080), num(7, tcp)),
		}},
		{"counted", "hash:ip", four, 4, nlwire.AppendBE32(nil, 8|unix.NLA_F_NET_BYTEORDER, counters), [][]byte{ip(1, "192.0.2.2")}},
		{"added", "hash:ip", four, 4, nil, nil},
		{"list", "list:set", 0, 3, nil, [][]byte{name(18, "netx"), name(18, "six"), name(18, "ip")}},
		{"list2", "list:set", 0, 3, nil, [][]byte{name(18, "netx"), name(18, "netport")}},
	} {
		// IPSET_ATTR_TYPENAME 3, REVISION 4, FAMILY 5, DATA 7; IPSET_CMD_CREATE 2, ADD 9.
		b := element(name(3, set.typ), num(4, set.revision), num(5, set.family), nested(7, set.create))
		w.ipset(2, set.name, b)
		for _, e := range set.elements {
			w.ipset(9, set.name, nested(7, e))
		}
	}
}

func nested(attr uint16, content []byte) []byte {
	b, at := nlwire.OpenAttr(nil, attr|nlwire.Nested)
	return nlwire.CloseAttr(append(b, content...), at)
}

// ipset sends a command for a set.
func (w *counted) ipset(cmd uint16, set string, attrs []byte) {
	socket, err := nlwire.Dial(nlwire.Config{Protocol: unix.NETLINK_NETFILTER, NetNS: w.fd})
	require.NoError(w.t, err)
	defer func() { require.NoError(w.t, socket.Close()) }()
	b, at := nlwire.OpenNetfilter(nil, unix.NFNL_SUBSYS_IPSET<<8|cmd, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL, unix.AF_INET, 0, 1)
	b = nlwire.AppendAttr(b, 1, 7)
	b = append(nlwire.AppendString(b, 2, set), attrs...)
	require.NoError(w.t, socket.Send(nlwire.CloseMessage(b, at)))
	answer := make([]byte, nlwire.LargestDatagram)
	n, err := socket.Receive(answer, true)
	require.NoError(w.t, err)
	m := nlwire.Messages{Data: answer[:n]}
	require.True(w.t, m.Next())
	require.Zero(w.t, -int32(binary.NativeEndian.Uint32(m.Payload)), "command %d for set %s", cmd, set)
}

// The facts of the host.

func (w *counted) Rules(c *rules.Chain) ([]*rules.Rule, error) { return c.Rules, nil }

func (w *counted) Get(*rules.Set, []byte) (rules.Element, bool, error) {
	return rules.Element{}, false, unix.ENOTSUP
}

func (w *counted) Elements(*rules.Set, int) ([]rules.Element, bool, error) {
	return nil, false, unix.ENOTSUP
}

func (w *counted) Object(*rules.Table, uint32, string) (rules.Object, error) {
	return rules.Object{}, unix.ENOTSUP
}

func (w *counted) IPsec() (bool, error) { return false, nil }

func (w *counted) IPSet(set uint16, q xt.SetQuery) (bool, error) { return w.sets.Test(set, q) }

func (w *counted) Recent(list string) ([]xt.RecentEntry, error) { return xt.ReadRecent(w.fd, list) }

func (w *counted) Fib(p *Packet, _, flags, result uint32) ([]byte, error) {
	a := p.Dst
	if flags&unix.NFTA_FIB_F_SADDR != 0 {
		a = p.Src
	}
	out := map[string]uint32{
		"192.0.2.1": unix.RTN_LOCAL, "2001:db8::1": unix.RTN_LOCAL, "192.0.2.255": unix.RTN_BROADCAST,
		"192.0.2.2": unix.RTN_UNICAST, "2001:db8::2": unix.RTN_UNICAST, "ff02::1": unix.RTN_MULTICAST,
		"198.51.100.2": unix.RTN_UNICAST, "2001:db8:1::2": unix.RTN_UNICAST,
	}[a.String()]
	if out == 0 {
		return nil, fmt.Errorf("no route to %s", a)
	}
	if result == unix.NFT_FIB_RESULT_OIF {
		out = 1
	}
	return binary.NativeEndian.AppendUint32(nil, out), nil
}

// probe is a packet of the client.
type probe struct {
	name   string
	packet Packet
	send   func() error
}

// probes are the packets of a family that take a way.
func (w *counted) probes(six bool, way string) []probe {
	host, all, client, server := "192.0.2.1", "192.0.2.255", "192.0.2.2", "198.51.100.2"
	etherType, ttl, header := uint16(unix.ETH_P_IP), uint8(64), 20
	icmp, echo := uint8(unix.IPPROTO_ICMP), uint8(8)
	everybody := uint8(unix.PACKET_BROADCAST)
	if six {
		host, all, client, server = "2001:db8::1", "ff02::1", "2001:db8::2", "2001:db8:1::2"
		etherType, header, icmp, echo = unix.ETH_P_IPV6, 40, unix.IPPROTO_ICMPV6, 128
		everybody = unix.PACKET_MULTICAST
	}
	mac, err := net.ParseMAC(clientMAC)
	require.NoError(w.t, err)
	own, err := net.ParseMAC(hostMAC)
	require.NoError(w.t, err)
	from, to := client, host
	base := Packet{EtherType: etherType, TTL: ttl}
	sender := w.client
	switch way {
	case "in":
		base.In, base.SrcMAC, base.DstMAC = w.in, mac, own
	case "out":
		from, to, sender = host, client, w.host
		base.Out, base.Local, base.OwnerKnown = w.in, true, true
	case "forward":
		to, base.TTL = server, ttl-1
		base.In, base.Out, base.SrcMAC, base.DstMAC = w.in, w.out, mac, own
	}
	base.Src, base.Dst = netip.MustParseAddr(from), netip.MustParseAddr(to)
	payload := "hello"
	udp := func(from, to uint16, tos uint8, dst string, typ uint8) probe {
		p := base
		p.Proto, p.SrcPort, p.DstPort, p.TOS, p.Len = unix.IPPROTO_UDP, from, to, tos, header+8+len(payload)
		p.Dst, p.PktType = netip.MustParseAddr(dst), typ
		if p.Dst.IsMulticast() {
			p.TTL = 64
		}
		return probe{fmt.Sprintf("udp %d to %s port %d", from, dst, to), p, func() error {
			return w.sendUDP(sender, netip.AddrPortFrom(p.Src, from), netip.AddrPortFrom(p.Dst, to), tos, payload)
		}}
	}
	tcp := func(from, to uint16) probe {
		p := base
		p.Proto, p.SrcPort, p.DstPort, p.TCPFlags, p.Len = unix.IPPROTO_TCP, from, to, tcpSYN, header+40
		return probe{fmt.Sprintf("tcp %d to port %d", from, to), p, func() error {
			return w.sendTCP(sender, from, netip.AddrPortFrom(p.Dst, to))
		}}
	}
	ping := base
	ping.Proto, ping.ICMPType, ping.Len = icmp, echo, header+8
	if way != "in" {
		return []probe{
			tcp(41000, 8080), udp(5353, 53, 0, to, unix.PACKET_HOST),
			{"ping", ping, func() error { return w.sendPing(sender, ping.Dst, echo) }},
		}
	}
	// The answer to a packet of the host.
	reset := base
	reset.Proto, reset.SrcPort, reset.DstPort, reset.TCPFlags, reset.Len = unix.IPPROTO_TCP, 81, 42000, tcpRST|tcpACK, header+20
	request := Tuple{Src: base.Dst, Dst: base.Src, SrcPort: 42000, DstPort: 81}
	reset.CT = Conn{State: Established, Reply: true, Status: SeenReply | Confirmed, Original: request, Answer: request.invert()}
	return []probe{
		{"reset", reset, func() error { return w.sendTCP(w.host, 42000, netip.AddrPortFrom(base.Src, 81)) }},
		tcp(40000, 8080), tcp(50000, 80), udp(5353, 53, 0x10, host, unix.PACKET_HOST), udp(6000, 9998, 0, host, unix.PACKET_HOST),
		udp(6001, 9999, 0, all, everybody), {"ping", ping, func() error { return w.sendPing(sender, ping.Dst, echo) }},
	}
}

func (w *counted) sendTCP(by *lab.NS, from uint16, to netip.AddrPort) error {
	return by.Do(func() error {
		d := net.Dialer{Timeout: 2 * time.Second, LocalAddr: &net.TCPAddr{Port: int(from)}}
		d.SetMultipathTCP(false)
		c, err := d.Dial("tcp", to.String())
		if err == nil {
			return c.Close()
		}
		return nil // refused
	})
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// send sends by a socket.
func (w *counted) send(by *lab.NS, to netip.AddrPort, typ, proto int, b []byte, prepare func(fd int) error) error {
	return by.Do(func() error {
		domain := unix.AF_INET
		if to.Addr().Is6() {
			domain = unix.AF_INET6
		}
		fd, err := unix.Socket(domain, typ, proto)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := prepare(fd); err != nil {
			return err
		}
		return unix.Sendto(fd, b, 0, sockaddr(to))
	})
}

func (w *counted) sendUDP(by *lab.NS, from, to netip.AddrPort, tos uint8, payload string) error {
	return w.send(by, to, unix.SOCK_DGRAM, 0, []byte(payload), func(fd int) error {
		if to.Addr().Is6() {
			if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TCLASS, int(tos)); err != nil {
				return err
			}
			if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_MULTICAST_HOPS, 64); err != nil {
				return err
			}
			return unix.Bind(fd, sockaddr(from))
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TOS, int(tos)); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1); err != nil {
			return err
		}
		return unix.Bind(fd, sockaddr(from))
	})
}

func (w *counted) sendPing(by *lab.NS, to netip.Addr, typ uint8) error {
	proto := unix.IPPROTO_ICMP
	if to.Is6() {
		proto = unix.IPPROTO_ICMPV6
	}
	b := []byte{typ, 0, 0, 0, 0, 1, 0, 1}
	if to.Is4() {
		binary.BigEndian.PutUint16(b[2:], ^(uint16(typ)<<8 + 1 + 1))
	}
	return w.send(by, netip.AddrPortFrom(to, 0), unix.SOCK_RAW, proto, b, func(int) error { return nil })
}

// hop is a chain that a packet comes through.
type hop struct {
	table, chain string
	hook         Hook
}

// ways are the chains that packets come through.
func ways() map[string][]hop {
	return map[string][]hop{
		"in": {
			{"raw", "PREROUTING", Prerouting}, {"mangle", "PREROUTING", Prerouting}, {"mangle", "INPUT", Input}, {"filter", "INPUT", Input},
		},
		"out": {
			{"raw", "OUTPUT", Output}, {"mangle", "OUTPUT", Output}, {"filter", "OUTPUT", Output}, {"mangle", "POSTROUTING", Postrouting},
		},
		"forward": {
			{"raw", "PREROUTING", Prerouting}, {"mangle", "PREROUTING", Prerouting}, {"mangle", "FORWARD", Forward},
			{"filter", "FORWARD", Forward}, {"mangle", "POSTROUTING", Postrouting},
		},
	}
}

// load puts the lines of a file into the chains of the way, behind a rule that counts all packets of the client.
func (w *counted) load(t *testing.T, way []hop, file, program, client string) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var b strings.Builder
	for _, table := range []string{"raw", "mangle", "filter"} {
		fmt.Fprintf(&b, "*%s\n", table)
		for _, h := range way {
			if h.table != table {
				continue
			}
			fmt.Fprintf(&b, "-A %s ! -s %s -j RETURN\n", h.chain, client)
			for line := range strings.Lines(string(text)) {
				if rule, ok := strings.CutPrefix(line, h.table+" "+h.chain+" "); ok {
					fmt.Fprintf(&b, "-A %s %s", h.chain, rule)
				}
			}
			fmt.Fprintf(&b, "-A %s -m comment --comment last\n", h.chain)
		}
		b.WriteString("COMMIT\n")
	}
	labtest.ExecInput(t, w.host, b.String(), program)
}

// chains reads the chains of the way.
func (w *counted) chains(way []hop, legacy bool, family rules.Family) (list [][]*rules.Rule) {
	t := w.t
	var tables []*rules.Table
	read := func(c *rules.Chain) ([]*rules.Rule, error) { return c.Rules, nil }
	if legacy {
		var err error
		tables, err = xt.LegacyTables(w.fd)
		require.NoError(t, err)
	} else {
		r, err := rules.Open(w.fd)
		require.NoError(t, err)
		defer func() { require.NoError(t, r.Close()) }()
		rs, err := r.Read(t.Context())
		require.NoError(t, err)
		tables, read = rs.Tables, r.Rules
	}
	for _, h := range way {
		for _, table := range tables {
			if table.Name == h.table && table.Family == family {
				c := table.Chain(h.chain)
				require.NotNil(t, c)
				r, err := read(c)
				require.NoError(t, err)
				list = append(list, r)
			}
		}
	}
	require.Len(t, list, len(way))
	return list
}

// packets is how many a rule has counted.
func packets(r *rules.Rule) uint64 {
	for _, e := range r.Exprs {
		if c, ok := e.(rules.Counter); ok {
			return c.Packets
		}
	}
	return 0
}

// answers evaluates every rule of the way, each with the packet as the rules before have left it.
func (w *counted) answers(p Packet, way []hop, chains [][]*rules.Rule, now time.Time) (list [][]Answer) {
	s := newState(&p)
	for i, chain := range chains {
		at := p
		if h := way[i].hook; h == Prerouting || h == Input {
			at.Out = Interface{}
		} else if h == Postrouting {
			at.In = Interface{}
		}
		r := &run{rs: &rules.Ruleset{}, hook: way[i].hook, base: at, facts: w, now: now, memo: map[call][]result{}}
		r.family = chain[0].Chain.Table.Family
		if i == 1 && way[i].hook.inet() {
			s = r.track(s)
		}
		var got []Answer
		for _, rule := range chain {
			r.ways = r.ways[:0]
			cur := cursor{state: s}
			a := No
			switch {
			case !r.expressions(rule, &cur):
				a = Maybe
			case cur.code != codeBreak:
				a = Yes
			}
			if a != Maybe {
				s = cur.state
			}
			got = append(got, a)
		}
		list = append(list, got)
	}
	return list
}

// TestXTKernel: hundreds of rules of iptables-legacy and of iptables-nft match the packets that they are said
// to match, by the counters of the kernel.
func TestXTKernel(t *testing.T) {
	for _, test := range []struct {
		way, file   string
		program     string
		legacy, six bool
	}{
		{"in", "xt_ip.rules", "iptables-legacy-restore", true, false},
		{"in", "xt_ip6.rules", "ip6tables-legacy-restore", true, true},
		{"in", "xt_ip.rules", "iptables-nft-restore", false, false},
		{"in", "xt_ip6.rules", "ip6tables-nft-restore", false, true},
		{"out", "xt_out.rules", "iptables-legacy-restore", true, false},
		{"out", "xt_out.rules", "ip6tables-nft-restore", false, true},
		{"forward", "xt_forward.rules", "iptables-nft-restore", false, false},
		{"forward", "xt_forward.rules", "ip6tables-legacy-restore", true, true},
	} {
		t.Run(test.way+" "+test.program, func(t *testing.T) {
			w := newCounted(t)
			family, client := rules.Family(unix.NFPROTO_IPV4), "192.0.2.2"
			if test.six {
				family, client = unix.NFPROTO_IPV6, "2001:db8::2"
			}
			if test.way == "out" {
				client = map[bool]string{false: "192.0.2.1", true: "2001:db8::1"}[test.six]
			}
			way := ways()[test.way]
			w.load(t, way, "testdata/"+test.file, test.program, client)
			maybes, n := 0, 0
			for _, probe := range w.probes(test.six, test.way) {
				before := w.chains(way, test.legacy, family)
				answers := w.answers(probe.packet, way, before, time.Now())
				require.NoError(t, probe.send(), probe.name)
				var after [][]*rules.Rule
				for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
					after = w.chains(way, test.legacy, family)
					a, b := after[len(after)-1], before[len(before)-1]
					if packets(a[len(a)-1]) > packets(b[len(b)-1]) {
						break
					}
					require.True(t, time.Now().Before(end), "%s does not arrive", probe.name)
				}
				for i, chain := range after {
					for j, rule := range chain {
						if j == 0 {
							continue // for packets of others
						}
						counted := packets(rule) - packets(before[i][j])
						text := xt.Printer{}.Rule(rule)
						a := answers[i][j]
						n++
						switch {
						case a == Maybe && (unknowable.MatchString(text) || slices.ContainsFunc(rule.Exprs, isLimit)),
							probe.name == "ping" && a == Maybe && identifier.MatchString(text):
							maybes++
						case a == Maybe, (a == Yes) != (counted > 0):
							t.Errorf("%s: %s %s: %s, and it counted %d", probe.name, rule.Chain.Table.Name, text, a, counted)
						}
					}
				}
			}
			t.Logf("%d answers, %d unknown", n, maybes)
		})
	}
}
