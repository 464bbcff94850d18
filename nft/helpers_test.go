// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/nlwire"
)

// sample is a table with every kind of map, set, chain and statement.
func sample() Table {
	return Table{
		Name:    "nftnat",
		Comment: "a sample",
		Sets: []Set{
			{Name: "tcp4", Key: Type{InetService}, Value: Type{IPv4Addr, InetService}, Timeout: true, Size: 65535},
			{Name: "tcp4_host", Key: Type{IPv4Addr, InetService}, Value: Type{IPv4Addr, InetService}, Timeout: true},
			{Name: "tcp6", Key: Type{InetService}, Value: Type{IPv6Addr, InetService}, Timeout: true},
			{Name: "tcp6_host", Key: Type{IPv6Addr, InetService}, Value: Type{IPv6Addr, InetService}, Timeout: true},
			{Name: "udp4", Key: Type{InetService}, Value: Type{IPv4Addr, InetService}},
			{Name: "networks4", Key: Type{IPv4Addr}, Interval: true},
			{Name: "networks6", Key: Type{IPv6Addr}, Interval: true},
			{Name: "inside4", Key: Type{IPv4Addr, IPv4Addr}, Interval: true},
			{Name: "inside6", Key: Type{IPv6Addr, IPv6Addr}, Interval: true},
			{Name: "ports", Key: Type{InetService}},
			{Name: "hosts4", Key: Type{IPv4Addr, InetService}},
			{Name: "hosts6", Key: Type{IPv6Addr, InetService}},
			{Name: "leases4", Key: Type{IPv4Addr}},
			{Name: "leases6", Key: Type{IPv6Addr}, Timeout: true},
			{Name: "away4", Key: Type{IPv4Addr}, Interval: true, Timeout: true},
			{Name: "away6", Key: Type{IPv6Addr, IPv6Addr}, Interval: true, Timeout: true},
			{Name: "links", Key: Type{IfName}},
			{Name: "udp4_out", Key: Type{IPv4Addr, InetService}, Value: Type{InetService}, Timeout: true},
			{Name: "tcp6_out", Key: Type{IPv6Addr, InetService}, Value: Type{InetService}},
			{Name: "udp4_link_out", Key: Type{IfName, IPv4Addr, InetService}, Value: Type{IPv4Addr, InetService}, Timeout: true},
			{Name: "tcp6_link_out", Key: Type{IfName, IPv6Addr, InetService}, Value: Type{IPv6Addr, InetService}},
			{Name: "marks", Key: Type{Mark}},
			{Name: "marks4", Key: Type{IPv4Addr}, Value: Type{Mark}},
			{Name: "marks6", Key: Type{IPv6Addr}, Value: Type{Mark}},
			{Name: "segments4", Key: Type{IfName, IfName, IPv4Addr}, Interval: true},
			{Name: "segments6", Key: Type{IfName, IfName, IPv6Addr}, Interval: true, Timeout: true},
			{Name: "limited", Key: Type{NfProto, InetProto, InetService}, Timeout: true},
			{Name: "limited4_host", Key: Type{InetProto, IPv4Addr, InetService}, Timeout: true},
			{Name: "limited6_host", Key: Type{InetProto, IPv6Addr, InetService}},
			{Name: "called4", Key: Type{InetProto, IPv4Addr, InetService, IPv4Addr}},
			{Name: "called6", Key: Type{InetProto, IPv6Addr, InetService, IPv6Addr}, Timeout: true},
			{Name: "tcp4_from", Key: Type{IPv4Addr, InetService, IPv4Addr}, Interval: true},
			{Name: "tcp6_from", Key: Type{IPv6Addr, InetService, IPv6Addr}, Interval: true, Timeout: true},
			{Name: "tcp4_range", Key: Type{InetService}, Value: Type{IPv4Addr}, Interval: true, Timeout: true},
			{Name: "udp6_range", Key: Type{InetService}, Value: Type{IPv6Addr}, Interval: true},
			{Name: "tcp4_host_range", Key: Type{InetService, IPv4Addr}, Value: Type{IPv4Addr}, Interval: true, Timeout: true},
			{Name: "udp6_host_range", Key: Type{InetService, IPv6Addr}, Value: Type{IPv6Addr}, Interval: true},
			{Name: "limited_range", Key: Type{InetService, NfProto, InetProto}, Interval: true, Timeout: true},
			{Name: "from4_range", Key: Type{InetService, IPv4Addr, InetProto}, Interval: true},
			{Name: "from6_host_range", Key: Type{InetService, IPv6Addr, InetProto, IPv6Addr}, Interval: true},
			{Name: "udp4_out_range", Key: Type{InetService, IPv4Addr}, Interval: true, Timeout: true},
			{Name: "tcp6_out_range", Key: Type{InetService, IPv6Addr}, Interval: true},
			{Name: "udp4_link_out_range", Key: Type{IfName, InetService, IPv4Addr}, Value: Type{IPv4Addr}, Interval: true, Timeout: true},
			{Name: "range_ports", Key: Type{InetService}, Interval: true},
			{Name: "udp4_shared", Key: Type{InetService}, Value: Type{InetService}},
		},
		Chains: []Chain{
			{Name: "publish", Comment: "what is published", Rules: []Rule{
				{Within(IP6Saddr, netip.MustParsePrefix("fe80::/10")), Return()},
				{DNATv4("tcp4_host", IPDaddr, TCPDport)},
				{DNATv4("tcp4", TCPDport)},
				{DNATv4("udp4", UDPDport)},
				{DNATv6("tcp6_host", IP6Daddr, TCPDport)},
				{DNATv6("tcp6", TCPDport)},
			}},
			{Name: "nat-prerouting", Hook: Hook{"nat", "prerouting", PriorityDstNAT}, Rules: []Rule{
				{DaddrLocal(), Jump("publish")},
			}},
			{Name: "nat-output", Hook: Hook{"nat", "output", PriorityDstNAT}, Rules: []Rule{
				{Within(IPDaddr, netip.MustParsePrefix("127.0.0.0/8")), Return()},
				{Within(IP6Daddr, netip.MustParsePrefix("::1/128")), Return()},
			}},
			{Name: "nat-postrouting", Hook: Hook{"nat", "postrouting", PrioritySrcNAT}, Rules: []Rule{
				{CTStatusDNAT(), In("inside4", IPSaddr, IPDaddr), MasqueradeFullyRandom()},
				{In("networks4", IPSaddr), NotIn("networks4", IPDaddr), MasqueradeFullyRandom()},
			}},
			{Name: "way-out", Rules: []Rule{
				{OverIPv4(), OverUDP(), MasqueradeTo("udp4_out", IPSaddr, UDPSport)},
				{OverIPv6(), OverTCP(), MasqueradeTo("tcp6_out", IP6Saddr, TCPSport)},
				{SNATv4("udp4_link_out", OIFName, IPSaddr, UDPSport)},
				{SNATv6("tcp6_link_out", OIFName, IP6Saddr, TCPSport)},
				{SNATv4("tcp4_host", IPSaddr, TCPSport)},
			}},
			{Name: "filter-forward", Hook: Hook{"filter", "forward", PriorityFilter}, Rules: []Rule{
				{CTStateEstablished(), Accept()},
				{In("networks6", IP6Daddr), Drop()},
			}},
			{Name: "admit", Rules: []Rule{
				{NotIn("tcp4_from", IPDaddr, TCPDport, IPSaddr), Drop()},
				{NotIn("tcp6_from", IP6Daddr, TCPDport, IP6Saddr), Drop()},
				{In("limited", NFProto, L4Proto, THDport), Return()},
				{In("limited4_host", L4Proto, IPDaddr, THDport), Return()},
				{In("limited6_host", L4Proto, IP6Daddr, THDport), Return()},
				{In("called4", L4Proto, IPDaddr, THDport, CTOriginalIPDaddr), Return()},
				{In("called6", L4Proto, IP6Daddr, THDport, CTOriginalIP6Daddr), Return()},
			}},
			{Name: "raw-prerouting", Hook: Hook{"filter", "prerouting", PriorityRaw}, Rules: []Rule{
				{NotFromInterface("lo"), Within(IPDaddr, netip.MustParsePrefix("127.0.0.0/8")), Drop()},
			}},
			{Name: "mangle-prerouting", Hook: Hook{"filter", "prerouting", PriorityMangle}, Rules: []Rule{
				{CTDirectionReply(), CTStatusDNAT(), MarkIs(0), SetMarkFrom("marks4", CTOriginalIPDaddr)},
				{CTDirectionReply(), CTStatusDNAT(), MarkIs(0), SetMarkFrom("marks6", CTOriginalIP6Daddr)},
				{NotIn("marks", MetaMark), In("networks4", CTOriginalIPDaddr), SetMark(0x1234abcd)},
			}},
			{Name: "hairpin", Hook: Hook{"nat", "postrouting", PrioritySrcNAT}, Rules: []Rule{
				{CTStatusDNAT(), In("segments4", IIFName, OIFName, IPSaddr), MasqueradeFullyRandom()},
				{CTStatusDNAT(), FromNoInterface(), In("segments6", OIFName, OIFName, IP6Saddr), SaddrNotLocal(), MasqueradeFullyRandom()},
			}},
			{Name: "publish-ranges", Rules: []Rule{
				{In("limited_range", THDport, NFProto, L4Proto), NotIn("from4_range", THDport, IPSaddr, L4Proto), Drop()},
				{NotIn("from6_host_range", THDport, IP6Daddr, L4Proto, IP6Saddr), Return()},
				{DNATv4SamePort("tcp4_host_range", TCPDport, IPDaddr)},
				{DNATv4SamePort("tcp4_range", TCPDport)},
				{DNATv6SamePort("udp6_host_range", UDPDport, IP6Daddr)},
				{DNATv6SamePort("udp6_range", UDPDport)},
			}},
			{Name: "by-ranges", Rules: []Rule{
				{In("udp4_out_range", UDPSport, IPSaddr), MasqueradeSamePort(UDPSport)},
				{In("limited4_host", L4Proto, IPSaddr, THSport), Return()},
				{In("tcp6_out_range", TCPSport, IP6Saddr), MasqueradeSamePort(TCPSport)},
				{SNATv4SamePort("udp4_link_out_range", UDPSport, OIFName, UDPSport, IPSaddr)},
				{SNATv4SamePort("tcp4_host_range", TCPSport, TCPSport, IPSaddr)},
				{SNATv6SamePort("udp6_host_range", UDPSport, UDPSport, IP6Saddr)},
			}},
			{Name: "past-holders", Rules: []Rule{
				{OverUDP(), RedirectTo("udp4_shared", UDPDport)},
				{OverIPv4(), OverTCP(), RedirectTo("udp4_out", IPDaddr, TCPDport)},
			}},
			{Name: "strangers", Rules: []Rule{{In("networks4", IPSaddr), SaddrElsewhere(), Drop()}}},
		},
	}
}

// dialIn opens a connection to the namespace, which is closed when the test ends.
// Where there is no netfilter (an emulator, a kernel without it) the test is skipped.
func dialIn(tb testing.TB, ns *lab.NS) *Conn {
	tb.Helper()
	f, err := os.Open(ns.Path())
	require.NoError(tb, err)
	defer func() { require.NoError(tb, f.Close()) }()
	c, err := Dial(&Config{NetNS: int(f.Fd())})
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EPFNOSUPPORT) {
		tb.Skipf("needs netfilter: %v", err)
	}
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, c.Close()) })
	return c
}

// kernel is a connection to a namespace of the test's own.
func kernel(tb testing.TB) (*Conn, *lab.NS) {
	tb.Helper()
	ns := labtest.NewNS(tb, "nft")
	return dialIn(tb, ns), ns
}

// list is what nft(8) lists of the table, without what changes by itself, in one
// spelling for all versions.
func list(tb testing.TB, ns *lab.NS, table string) string {
	tb.Helper()
	return labtest.SpellNFT(labtest.Exec(tb, ns, "nft", "-s", "list", "table", "inet", table))
}

// newRand is a source whose seed the log of a failed test shows.
func newRand(tb testing.TB) *rand.Rand {
	tb.Helper()
	seed := uint64(time.Now().UnixNano())
	tb.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func addr4(r *rand.Rand) netip.Addr {
	v := r.Uint32()
	return netip.AddrFrom4([4]byte{byte(v>>24) % 224, byte(v >> 16), byte(v >> 8), byte(v)})
}

func addr6(r *rand.Rand) netip.Addr {
	var b [16]byte
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	b[0] = 0x20 // nowhere near ::ffff:0:0/96, which no key may hold
	return netip.AddrFrom16(b)
}

func addrOf(r *rand.Rand, d DataType) netip.Addr {
	if d == IPv4Addr {
		return addr4(r)
	}
	return addr6(r)
}

// randomProto is mostly one that nft(8) has a name for.
func randomProto(r *rand.Rand) uint8 { return []uint8{6, 17, 17, 200}[r.IntN(4)] }

// randomElement is one that the collection can hold.
func randomElement(r *rand.Rand, c Set) Element {
	e := Element{Set: c.Name}
	port := uint16(r.Uint32())
	switch c.holds() {
	case portKey:
		e.Key = PortKey(port)
	case addrKey:
		e.Key = AddrKey(addrOf(r, c.Key[0]))
	case addrPortKey:
		e.Key = AddrPortKey(netip.AddrPortFrom(addrOf(r, c.Key[0]), port))
	case interfaceKey:
		e.Key = InterfaceKey(randomInterface(r))
	case prefixKey:
		e.Key = PrefixKey(randomPrefix(r, c.Key[0]))
	case pairKey:
		e.Key = PairKey(randomPrefix(r, c.Key[0]))
	case segmentKey:
		e.Key = SegmentKey(randomInterface(r), randomPrefix(r, c.Key[2]))
	case markKey:
		e.Key = MarkKey(r.Uint32())
	case linkKey:
		e.Key = LinkKey(randomInterface(r), netip.AddrPortFrom(addrOf(r, c.Key[1]), port))
	case familyServiceKey:
		e.Key = ServiceKey(randomProto(r), netip.AddrPortFrom([]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}[r.IntN(2)], port))
	case serviceKey:
		e.Key = ServiceKey(randomProto(r), netip.AddrPortFrom(addrOf(r, c.Key[1]), port))
	case calledKey:
		e.Key = CalledKey(randomProto(r), netip.AddrPortFrom(addrOf(r, c.Key[1]), port), addrOf(r, c.Key[1]))
	case clientsKey:
		front := addrOf(r, c.Key[0])
		if r.IntN(2) == 0 {
			front = netip.PrefixFrom(front, 0).Masked().Addr()
		}
		last := port
		if r.IntN(2) == 0 {
			last += uint16(r.IntN(min(1<<16-int(port), 100)))
		}
		e.Key = ClientsOfKey(netip.AddrPortFrom(front, port), last, randomPrefix(r, c.Key[0]))
	case rangeKey:
		e.Key = RangeKey(randomRange(r, c.Key))
	case noKey, startKey, endKey:
		panic("no elements of type " + c.Key.String())
	}
	switch {
	case c.Value.isMark():
		e.Mark = 1 + r.Uint32N(1<<31)
	case c.Value.isPort():
		e.Value = netip.AddrPortFrom(netip.Addr{}, uint16(1+r.IntN(65535)))
	case c.Value.isAddr():
		e.Value = netip.AddrPortFrom(addrOf(r, c.Value[0]), 0)
	case c.Value != nil:
		e.Value = netip.AddrPortFrom(addrOf(r, c.Value[0]), uint16(r.Uint32()))
	}
	if c.Timeout && r.IntN(2) == 0 {
		e.Timeout = time.Duration(1+r.IntN(1e9)) * time.Millisecond
		if r.IntN(2) == 0 {
			e.Expires = time.Duration(1+r.Int64N(int64(e.Timeout/time.Millisecond))) * time.Millisecond
		}
	}
	if r.IntN(2) == 0 {
		e.Comment = randomComment(r)
	}
	return e
}

// randomRange has the fields of the type. It is of one port, or reaches to the last, at times.
func randomRange(r *rand.Rand, t Type) (n Range) {
	prefix := &n.Addr
	for _, d := range t {
		switch d { //nolint:exhaustive // the others are addresses
		case InetService:
			n.First = uint16(r.Uint32())
			n.Last = n.First + uint16(r.IntN(min(1<<16-int(n.First), 1+r.IntN(300))))
			if r.IntN(10) == 0 {
				n.First, n.Last = lastPort-uint16(r.IntN(100)), lastPort
			}
		case NfProto:
			n.Family = []uint8{4, 6}[r.IntN(2)]
		case InetProto:
			n.L4Proto = randomProto(r)
		case IfName:
			n.Link = randomInterface(r)
		default:
			*prefix = randomPrefix(r, d)
			prefix = &n.Other
		}
	}
	return n
}

// randomPrefix has any length, and is one that reaches the highest address at times.
func randomPrefix(r *rand.Rand, d DataType) netip.Prefix {
	a := addrOf(r, d)
	if r.IntN(10) == 0 {
		a = lastAddr(netip.PrefixFrom(a, 0))
	}
	return netip.PrefixFrom(a, r.IntN(a.BitLen()+1)).Masked()
}

// randomInterface is a name of all that names are made of.
func randomInterface(r *rand.Rand) string {
	var b [unix.IFNAMSIZ - 1]byte
	for {
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		if name := string(b[:1+r.IntN(len(b))]); interfaceName(name) {
			return name
		}
	}
}

func randomComment(r *rand.Rand) string {
	alphabet := []rune(`abc XYZ 019 \{}[]':;,.<>äß漢#@!$%`)
	var s string
	for range 1 + r.IntN(40) {
		s += string(alphabet[r.IntN(len(alphabet))])
	}
	return s
}

// holdable are the collections of the sample whose elements can be keys.
func holdable(t Table) []Set {
	var cs []Set
	for _, c := range t.Sets {
		if c.holds() != noKey {
			cs = append(cs, c)
		}
	}
	return cs
}

// ports is n elements of the sample's map tcp4, from port 1 on.
func ports(n int, comment string) []Element {
	es := make([]Element, n)
	for i := range es {
		es[i] = Element{
			Set: "tcp4", Key: PortKey(uint16(i + 1)), Comment: comment,
			Value: netip.MustParseAddrPort("172.17.0.2:80"),
		}
	}
	return es
}

// sorted are the elements as text, to compare without an order. What is left of
// time-outs is not part of it.
func sorted(es []Element) []string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.String()
	}
	slices.Sort(lines)
	return lines
}

// decode is decodeElement by value.
func (c Set) decode(b []byte) (Element, error) {
	var e Element
	err := c.decodeElement(&e, b)
	return e, err
}

func named(t Table, name string) Set {
	c, ok := t.Set(name)
	if !ok {
		panic(fmt.Sprintf("no map or set %s", name))
	}
	return c
}

// runNFT runs nft(8) whatever it answers.
func runNFT(tb testing.TB, ns *lab.NS, args ...string) labtest.Result {
	tb.Helper()
	return labtest.Run(tb, ns, exec.Command(labtest.Tool(tb, "nft"), args...))
}

// randomElements are n elements with different keys, segments that do not overlap,
// and time-outs that do not end while a test runs.
func randomElements(r *rand.Rand, t Table, n int) []Element {
	cs := holdable(t)
	var es []Element
	for len(es) < n {
		e := randomElement(r, cs[r.IntN(len(cs))])
		if slices.ContainsFunc(es, func(o Element) bool { return o.Set == e.Set && overlap(o.Key, e.Key) }) {
			continue
		}
		if e.Timeout != 0 {
			e.Timeout += time.Hour
			e.Expires = 0
		}
		es = append(es, e)
	}
	return es
}

func overlap(a, b Key) bool {
	for _, kind := range []keyKind{prefixKey, pairKey} {
		p, isOne := a.prefix(kind)
		if q, _ := b.prefix(kind); isOne && p.Overlaps(q) {
			return true
		}
	}
	aLink, p, isOne := a.Segment()
	bLink, q, _ := b.Segment()
	if r, ok := a.Range(); ok { // whatever the other fields
		o, _ := b.Range()
		return r.First <= o.Last && o.First <= r.Last
	}
	return a == b || isOne && aLink == bLink && p.Overlaps(q)
}

// errorMessage is an answer as the kernel sends it: the error number, the header of
// the request and, with extended acknowledgement, attributes.
func errorMessage(seq uint32, errno unix.Errno, flags uint16, behind ...byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, 0)
	b = binary.NativeEndian.AppendUint16(b, unix.NLMSG_ERROR)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(-int32(errno)))
	b = binary.NativeEndian.AppendUint32(b, unix.SizeofNlMsghdr)
	b = append(b, make([]byte, unix.SizeofNlMsghdr-4)...)
	return nlwire.CloseMessage(append(b, behind...), 0)
}

// explanation is the kernel's own words and where they point to.
func explanation(text string, offset uint32) []byte {
	b := nlwire.AppendString(nil, unix.NLMSGERR_ATTR_MSG, text)
	return nlwire.AppendAttr(b, unix.NLMSGERR_ATTR_OFFS, binary.NativeEndian.AppendUint32(nil, offset)...)
}

const explainedFlags = unix.NLM_F_CAPPED | unix.NLM_F_ACK_TLVS
