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
	`connlabel|socket|policy|cgroup|eui64)\b|--ctexpire|--tcp-option|--mss|--kerneltz|probability 0.5|--every 3|--packets-gt|` +
	`--update --name a --seconds`)

// identifier are the rules that compare the identifier of an ICMP packet.
var identifier = regexp.MustCompile(`--ct(origsrc|replsrc|repldst)port`)

func isLimit(e rules.Expr) bool {
	_, ok := e.(rules.Limit)
	return ok
}

// witness are the namespaces and packets of TestXTKernel.
type witness struct {
	t            *testing.T
	host, client *lab.NS
	fd           int
	sets         *xt.Sets
	in           Interface
}

const (
	hostMAC   = "02:00:00:00:00:01"
	clientMAC = "02:00:00:00:00:02"
)

func newWitness(t *testing.T) *witness {
	t.Helper()
	w := &witness{t: t, host: labtest.NewNS(t, "host"), client: labtest.NewNS(t, "client")}
	for _, c := range []string{
		"ip link add eth0 address " + hostMAC + " type veth peer name eth0 address " + clientMAC + " netns " + w.client.Path(),
		"ip link set eth0 group 7", "ip link set eth0 up", "ip link set lo up",
		"ip addr add 192.0.2.1/24 brd 192.0.2.255 dev eth0", "ip addr add 2001:db8::1/64 dev eth0 nodad",
		"ip neigh add 2001:db8::2 lladdr " + clientMAC + " dev eth0 nud permanent",
		"ip neigh add 192.0.2.2 lladdr " + clientMAC + " dev eth0 nud permanent",
	} {
		args := strings.Fields(c)
		labtest.Exec(t, w.host, args[0], args[1:]...)
	}
	for _, c := range []string{
		"ip link set eth0 up", "ip link set lo up",
		"ip addr add 192.0.2.2/24 brd 192.0.2.255 dev eth0", "ip addr add 2001:db8::2/64 dev eth0 nodad",
		"ip neigh add 2001:db8::1 lladdr " + hostMAC + " dev eth0 nud permanent",
		"ip neigh add 192.0.2.1 lladdr " + hostMAC + " dev eth0 nud permanent",
	} {
		args := strings.Fields(c)
		labtest.Exec(t, w.client, args[0], args[1:]...)
	}
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
	w.makeSets()
	return w
}

// makeSets makes sets of ipset of the types that the kernel has.
func (w *witness) makeSets() {
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
func (w *witness) ipset(cmd uint16, set string, attrs []byte) {
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

func (w *witness) Rules(c *rules.Chain) ([]*rules.Rule, error) { return c.Rules, nil }

func (w *witness) Get(*rules.Set, []byte) (rules.Element, bool, error) {
	return rules.Element{}, false, unix.ENOTSUP
}

func (w *witness) Elements(*rules.Set, int) ([]rules.Element, bool, error) {
	return nil, false, unix.ENOTSUP
}

func (w *witness) Object(*rules.Table, uint32, string) (rules.Object, error) {
	return rules.Object{}, unix.ENOTSUP
}

func (w *witness) IPSet(set uint16, q xt.SetQuery) (bool, error) { return w.sets.Test(set, q) }

func (w *witness) Recent(list string) ([]xt.RecentEntry, error) { return xt.ReadRecent(w.fd, list) }

func (w *witness) Fib(p *Packet, _, flags, result uint32) ([]byte, error) {
	a := p.Dst
	if flags&unix.NFTA_FIB_F_SADDR != 0 {
		a = p.Src
	}
	out := map[string]uint32{
		"192.0.2.1": unix.RTN_LOCAL, "2001:db8::1": unix.RTN_LOCAL, "192.0.2.255": unix.RTN_BROADCAST,
		"192.0.2.2": unix.RTN_UNICAST, "2001:db8::2": unix.RTN_UNICAST, "ff02::1": unix.RTN_MULTICAST,
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

// probes are the packets of a family.
func (w *witness) probes(six bool) []probe {
	host, all, client := "192.0.2.1", "192.0.2.255", "192.0.2.2"
	etherType, ttl, header := uint16(unix.ETH_P_IP), uint8(64), 20
	icmp, echo := uint8(unix.IPPROTO_ICMP), uint8(8)
	everybody := uint8(unix.PACKET_BROADCAST)
	if six {
		host, all, client = "2001:db8::1", "ff02::1", "2001:db8::2"
		etherType, header, icmp, echo = unix.ETH_P_IPV6, 40, unix.IPPROTO_ICMPV6, 128
		everybody = unix.PACKET_MULTICAST
	}
	mac, err := net.ParseMAC(clientMAC)
	require.NoError(w.t, err)
	own, err := net.ParseMAC(hostMAC)
	require.NoError(w.t, err)
	base := Packet{
		EtherType: etherType, Src: netip.MustParseAddr(client), Dst: netip.MustParseAddr(host), TTL: ttl, In: w.in,
		SrcMAC: mac, DstMAC: own,
	}
	payload := "hello"
	udp := func(from, to uint16, tos uint8, dst string, typ uint8) probe {
		p := base
		p.Proto, p.SrcPort, p.DstPort, p.TOS, p.Len = unix.IPPROTO_UDP, from, to, tos, header+8+len(payload)
		p.Dst, p.PktType = netip.MustParseAddr(dst), typ
		if p.Dst.IsMulticast() {
			p.TTL = 64
		}
		return probe{fmt.Sprintf("udp %d to %s port %d", from, dst, to), p, func() error {
			return w.sendUDP(from, netip.AddrPortFrom(p.Dst, to), tos, payload)
		}}
	}
	tcp := func(from, to uint16) probe {
		p := base
		p.Proto, p.SrcPort, p.DstPort, p.TCPFlags, p.Len = unix.IPPROTO_TCP, from, to, tcpSYN, header+40
		return probe{fmt.Sprintf("tcp %d to port %d", from, to), p, func() error {
			return w.sendTCP(from, netip.AddrPortFrom(p.Dst, to))
		}}
	}
	ping := base
	ping.Proto, ping.ICMPType, ping.Len = icmp, echo, header+8
	return []probe{
		tcp(40000, 8080), tcp(50000, 80), udp(5353, 53, 0x10, host, unix.PACKET_HOST), udp(6000, 9998, 0, host, unix.PACKET_HOST),
		udp(6001, 9999, 0, all, everybody), {"ping", ping, func() error { return w.sendPing(ping.Dst, echo) }},
	}
}

func (w *witness) sendTCP(from uint16, to netip.AddrPort) error {
	return w.client.Do(func() error {
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

// send sends by a socket of the client.
func (w *witness) send(to netip.AddrPort, typ, proto int, b []byte, prepare func(fd int) error) error {
	return w.client.Do(func() error {
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

func (w *witness) sendUDP(from uint16, to netip.AddrPort, tos uint8, payload string) error {
	return w.send(to, unix.SOCK_DGRAM, 0, []byte(payload), func(fd int) error {
		if to.Addr().Is6() {
			if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TCLASS, int(tos)); err != nil {
				return err
			}
			if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_MULTICAST_HOPS, 64); err != nil {
				return err
			}
			if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_MULTICAST_IF, 2); err != nil {
				_ = err
			}
			return unix.Bind(fd, &unix.SockaddrInet6{Port: int(from), Addr: netip.MustParseAddr("2001:db8::2").As16()})
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TOS, int(tos)); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrInet4{Port: int(from)})
	})
}

func (w *witness) sendPing(to netip.Addr, typ uint8) error {
	proto := unix.IPPROTO_ICMP
	if to.Is6() {
		proto = unix.IPPROTO_ICMPV6
	}
	b := []byte{typ, 0, 0, 0, 0, 1, 0, 1}
	if to.Is4() {
		binary.BigEndian.PutUint16(b[2:], ^(uint16(typ)<<8 + 1 + 1))
	}
	return w.send(netip.AddrPortFrom(to, 0), unix.SOCK_RAW, proto, b, func(int) error { return nil })
}

// way are the chains of a packet to the host.
var way = [][2]string{{"raw", "PREROUTING"}, {"mangle", "PREROUTING"}, {"mangle", "INPUT"}, {"filter", "INPUT"}}

// load puts the lines of a file into the chains of the way, behind a rule that counts all packets of the client.
func (w *witness) load(t *testing.T, file, program, client string) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var b strings.Builder
	table := ""
	for _, hop := range way {
		if hop[0] != table {
			if table != "" {
				b.WriteString("COMMIT\n")
			}
			table = hop[0]
			fmt.Fprintf(&b, "*%s\n", table)
		}
		fmt.Fprintf(&b, "-A %s ! -s %s -j RETURN\n", hop[1], client)
		for line := range strings.Lines(string(text)) {
			if rule, ok := strings.CutPrefix(line, hop[0]+" "+hop[1]+" "); ok {
				fmt.Fprintf(&b, "-A %s %s", hop[1], rule)
			}
		}
		fmt.Fprintf(&b, "-A %s -m comment --comment last\n", hop[1])
	}
	b.WriteString("COMMIT\n")
	labtest.ExecInput(t, w.host, b.String(), program)
}

// chains reads the chains of the way.
func (w *witness) chains(legacy bool, family rules.Family) (list [][]*rules.Rule) {
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
	for _, hop := range way {
		for _, table := range tables {
			if table.Name == hop[0] && table.Family == family {
				c := table.Chain(hop[1])
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
func (w *witness) answers(p Packet, way [][]*rules.Rule, now time.Time) (list [][]Answer) {
	s := newState(&p)
	for i, chain := range way {
		r := &run{rs: &rules.Ruleset{}, hook: Prerouting, base: p, facts: w, now: now, memo: map[call][]result{}}
		if i >= 2 {
			r.hook = Input
		}
		r.family = chain[0].Chain.Table.Family
		if i == 1 {
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
		program, file string
		legacy, six   bool
	}{
		{"iptables-legacy-restore", "testdata/xt_ip.rules", true, false},
		{"ip6tables-legacy-restore", "testdata/xt_ip6.rules", true, true},
		{"iptables-nft-restore", "testdata/xt_ip.rules", false, false},
		{"ip6tables-nft-restore", "testdata/xt_ip6.rules", false, true},
	} {
		t.Run(test.program, func(t *testing.T) {
			family, client := rules.Family(unix.NFPROTO_IPV4), "192.0.2.2"
			if test.six {
				family, client = unix.NFPROTO_IPV6, "2001:db8::2"
			}
			w := newWitness(t)
			w.load(t, test.file, test.program, client)
			maybes, n := 0, 0
			for _, probe := range w.probes(test.six) {
				before := w.chains(test.legacy, family)
				answers := w.answers(probe.packet, before, time.Now())
				require.NoError(t, probe.send(), probe.name)
				var after [][]*rules.Rule
				require.Eventually(t, func() bool {
					after = w.chains(test.legacy, family)
					a, b := after[len(after)-1], before[len(before)-1]
					return packets(a[len(a)-1]) > packets(b[len(b)-1])
				}, 5*time.Second, time.Millisecond, "%s does not arrive", probe.name)
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
