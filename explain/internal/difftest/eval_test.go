// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package difftest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/internal/rules/xt"
	"github.com/nftnat/nftnat/nat"
)

// Each packet at each hook is given to eval, and meets what nftrace says that it met.
func TestEval(t *testing.T) {
	s := newSite(t)
	s.traceAll()
	c := newComparison(s)
	n := labtest.RoundsOf(t, envCases, "packets", 500, 1000)
	seed := labtest.Number(t, envSeed, 1)
	for i := 0; i < n/callsOfScenario; i++ {
		sc := s.newScenario(uint64(seed + i))
		if !sc.traceable() {
			n += callsOfScenario
			continue
		}
		require.NoError(t, s.load(sc, true))
		if fault := c.compare(sc); fault != nil {
			s.shrink(sc, func() error { return c.compare(sc) })
			fault = c.compare(sc)
			if fault == nil {
				fault = errors.New("the smaller scenario no longer fails")
			}
			t.Errorf("seed %d: %v\n%s", sc.seed, fault, sc)
			if c.faults++; c.faults >= mostFaults {
				break
			}
		}
	}
	t.Logf("%d packets, %d hooks: %v", n, c.hooks, c.ends)
}

// envSeed is the seed of the first scenario.
const envSeed = "NFTNAT_SEED"

// mostFaults ends a run.
const mostFaults = 5

// traceable reports whether nftrace shows all that decides.
func (sc *scenario) traceable() bool {
	return !slices.ContainsFunc(sc.iptables, func(x *xtables) bool { return strings.Contains(x.tool, "legacy") })
}

// tracerTable is the table that marks packets to be traced.
const tracerTable = "difftest-tracer"

// traceAll has nftrace show all packets of the host.
func (s *site) traceAll() {
	s.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "table netdev %s {\n", tracerTable)
	for _, link := range append(slices.Clone(hostInterfaces), "lo") {
		fmt.Fprintf(&b, "chain in-%s {\ntype filter hook ingress device %q priority -500\nmeta nftrace set 1\n}\n", link, link)
	}
	fmt.Fprintf(&b, "}\ntable inet %s {\nchain out {\ntype filter hook output priority -500\nmeta nftrace set 1\n}\n}\n", tracerTable)
	s.run(s.host, b.String(), "nft", "-f", "/dev/stdin")
}

// comparison compares what eval says with what nftrace says.
type comparison struct {
	*site
	links   map[int]eval.Interface
	macs    map[int]string
	ports   map[int]int // bridges by their ports
	handle  *netlink.Handle
	reader  *rules.Reader
	rs      *rules.Ruleset
	hooks   int
	ends    map[string]int
	faults  int
	current client
	conn    eval.Conn
	// marksConn is set if rules of the scenario set the mark of a connection.
	marksConn bool
}

func newComparison(s *site) *comparison {
	s.Helper()
	c := &comparison{site: s, links: map[int]eval.Interface{}, macs: map[int]string{}, ports: map[int]int{}, ends: map[string]int{}}
	var err error
	s.in(s.host, func() {
		c.reader, err = rules.Open(0)
		require.NoError(s, err)
	})
	s.Cleanup(func() { _ = c.reader.Close() })
	h, err := s.host.Handle()
	require.NoError(s, err)
	s.Cleanup(h.Close)
	c.handle = h
	return c
}

// readLinks reads the links and addresses of the host.
func (c *comparison) readLinks() {
	c.Helper()
	links, err := c.handle.LinkList()
	require.NoError(c, err)
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range links {
		a := l.Attrs()
		i := eval.Interface{Index: a.Index, Name: a.Name, Type: unix.ARPHRD_ETHER, Bridge: names[a.MasterIndex]}
		if i.Kind = l.Type(); a.Name == "lo" {
			i.Type, i.Kind = unix.ARPHRD_LOOPBACK, ""
		}
		addrs, err := c.handle.AddrList(l, netlink.FAMILY_ALL)
		require.NoError(c, err)
		for _, addr := range addrs {
			ip, _ := netip.AddrFromSlice(addr.IP)
			bits, _ := addr.Mask.Size()
			i.Addresses = append(i.Addresses, netip.PrefixFrom(ip.Unmap(), bits))
		}
		c.links[a.Index] = i
		c.macs[a.Index] = string(a.HardwareAddr)
		if a.MasterIndex != 0 {
			c.ports[a.Index] = a.MasterIndex
		}
	}
}

// compare sends the packets of a loaded scenario.
func (c *comparison) compare(sc *scenario) error {
	c.readLinks()
	var err error
	if c.rs, err = c.reader.Read(context.Background()); err != nil {
		return err
	}
	text := sc.String()
	c.marksConn = strings.Contains(text, "ct mark set") || strings.Contains(text, "CONNMARK")
	for _, cl := range sc.clients {
		r := c.call(cl)
		if r.absent {
			continue
		}
		if err := c.check(sc, cl, r); err != nil {
			return fmt.Errorf("%s: %s\n%w", cl, r, err)
		}
	}
	return nil
}

// stay is what a packet met at one hook.
type stay struct {
	hook   eval.Hook
	first  event
	events []event
	mark   uint32
	// Of the last base chain.
	priority int32
	chains   []*rules.Chain
}

// base finds the base chain of an event; nil: it is of another chain.
func (c *comparison) base(e event) *rules.Chain {
	for _, t := range c.rs.Tables {
		if uint8(t.Family) == e.family && t.Name == e.table {
			if ch := t.Chain(e.chain); ch != nil && ch.Base != nil {
				return ch
			}
		}
	}
	return nil
}

func hookOf(ch *rules.Chain) eval.Hook {
	n := eval.Hook(ch.Base.Hook)
	switch ch.Table.Family {
	case unix.NFPROTO_NETDEV:
		return map[eval.Hook]eval.Hook{0: eval.Ingress, 1: eval.Egress}[n]
	case unix.NFPROTO_BRIDGE:
		return eval.BridgePrerouting + n
	case unix.NFPROTO_ARP:
		return eval.ArpInput + n
	case unix.NFPROTO_INET:
		if n == 5 {
			return eval.Ingress
		}
	}
	return eval.Prerouting + n
}

// stays cuts events into what packets met at hooks. A rule that rejects sends its answer before its own
// event comes: that one is found by the id of the packet.
func (c *comparison) stays(events []event) (all []*stay) {
	last := map[uint32]*stay{} // of each packet
	for _, e := range events {
		at := last[e.id]
		ch := c.base(e)
		if e.has && ch == nil {
			continue // cannot be
		}
		if e.has && (at == nil || e.table == tracerTable || hookOf(ch) != at.hook ||
			priority(ch) < at.priority || slices.Contains(at.chains, ch) || e.iif != at.first.iif || e.oif != at.first.oif) {
			// An event has the mark that its rule may have set: the packet came with that of the last one.
			before := uint32(0)
			wire := e.table == tracerTable && (e.iif == 0 || c.links[int(e.iif)].Kind == "veth")
			if !wire {
				from := at
				if from == nil && e.table == tracerTable && len(all) > 0 {
					from = all[len(all)-1] // the port of the bridge, where the packet had another id
				}
				if from != nil {
					before = from.events[len(from.events)-1].mark
				}
			}
			at = &stay{hook: hookOf(ch), first: e, mark: before}
			all = append(all, at)
			last[e.id] = at
		}
		if at == nil {
			continue
		}
		if e.has {
			at.priority = priority(ch)
			at.chains = append(at.chains, ch)
		}
		at.events = append(at.events, e)
	}
	return all
}

// priority is when a base chain runs: those of nat are one function of their hook.
func priority(ch *rules.Chain) int32 {
	if ch.Base.Type != "nat" {
		return ch.Base.Priority
	}
	if h := hookOf(ch); h == eval.Prerouting || h == eval.Output {
		return -100
	}
	return 100
}

// packet makes a packet of eval of what nftrace shows at the beginning of a stay.
func (c *comparison) packet(st *stay) (p eval.Packet, ok bool) {
	e := st.first
	n := e.network
	if len(n) < 20 || len(e.transport) < 8 {
		return p, false
	}
	switch n[0] >> 4 {
	case 4:
		p.EtherType, p.Proto, p.TTL, p.TOS = unix.ETH_P_IP, n[9], n[8], n[1]
		p.Len = int(binary.BigEndian.Uint16(n[2:]))
		p.Src, _ = netip.AddrFromSlice(n[12:16])
		p.Dst, _ = netip.AddrFromSlice(n[16:20])
	case 6:
		if len(n) < 40 {
			return p, false
		}
		p.EtherType, p.Proto, p.TTL = unix.ETH_P_IPV6, n[6], n[7]
		p.TOS = n[0]<<4 | n[1]>>4
		p.Len = int(binary.BigEndian.Uint16(n[4:])) + 40
		p.Src, _ = netip.AddrFromSlice(n[8:24])
		p.Dst, _ = netip.AddrFromSlice(n[24:40])
	default:
		return p, false
	}
	if p.Proto != unix.IPPROTO_TCP && p.Proto != unix.IPPROTO_UDP {
		return p, false
	}
	p.SrcPort, p.DstPort = binary.BigEndian.Uint16(e.transport), binary.BigEndian.Uint16(e.transport[2:])
	if p.Proto == unix.IPPROTO_TCP && len(e.transport) >= 14 {
		p.TCPFlags = e.transport[13]
	}
	p.In, p.Out, p.Mark = c.links[int(e.iif)], c.links[int(e.oif)], st.mark
	if len(e.ll) >= 14 {
		p.DstMAC, p.SrcMAC = e.ll[:6], e.ll[6:12]
	}
	p.Local = e.iif == 0
	if p.Local && st.hook == eval.Output {
		p.OwnerKnown = true
	}
	return p, true
}

// check compares each stay of a client's packets. Of a connection there are the first packet, the answer,
// and what follows them: the first of each direction and the third packet are compared.
func (c *comparison) check(sc *scenario, cl client, r result) error {
	c.current = cl
	c.conn = eval.Conn{}
	proto := uint8(unix.IPPROTO_TCP)
	if cl.mapping.Proto == nat.UDP {
		proto = unix.IPPROTO_UDP
	}
	all := c.stays(r.events)
	for i, st := range all {
		if st.first.table == tracerTable && len(st.events) == 1 {
			continue
		}
		p, ok := c.packet(st)
		if !ok || p.Proto != proto || p.Src.Is4() != cl.addr.Is4() {
			continue
		}
		p.PktType = c.pktType(st, p)
		answer := st.first.ctDirection == 1 || p.Src == cl.mapping.Backend.Addr() && p.SrcPort == cl.backendPort() ||
			p.Src == cl.frontend.Addr() && p.SrcPort == cl.frontend.Port() ||
			proto == unix.IPPROTO_TCP && p.TCPFlags&(synFlag|ackFlag) == synFlag|ackFlag // of another backend
		if proto == unix.IPPROTO_TCP && !answer && p.TCPFlags&synFlag == 0 {
			break // the third packet, or the reset that ends the connection
		}
		if proto == unix.IPPROTO_TCP && p.TCPFlags&0x04 != 0 {
			continue // a reset that refuses
		}
		c.setConn(&p, st, cl, r, answer)
		var next *stay
		if i+1 < len(all) {
			next = all[i+1]
		}
		if err := c.run(sc, st, p, next); err != nil {
			return err
		}
	}
	return nil
}

// pktType is what the driver found: whether the frame was for the interface.
func (c *comparison) pktType(st *stay, p eval.Packet) uint8 {
	if st.hook == eval.BridgePrerouting && string(p.DstMAC) == c.macs[c.ports[p.In.Index]] {
		return unix.PACKET_HOST
	}
	if len(p.DstMAC) == 6 && p.In.Index != 0 && p.In.Name != "lo" && string(p.DstMAC) != c.macs[p.In.Index] {
		return unix.PACKET_OTHERHOST
	}
	return unix.PACKET_HOST
}

// setConn gives a packet the connection that it has.
func (c *comparison) setConn(p *eval.Packet, st *stay, cl client, r result, answer bool) {
	original := eval.Tuple{Src: cl.addr, Dst: cl.frontend.Addr(), SrcPort: r.sport, DstPort: cl.frontend.Port()}
	conn := eval.Conn{Reply: answer, Original: original}
	if answer {
		conn.State = eval.Established
		conn.Status = eval.SeenReply | eval.Confirmed | eval.SrcNATDone | eval.DstNATDone
		conn.Answer = c.conn.Answer
		if st.hook == eval.Prerouting || st.hook == eval.Ingress {
			conn.Answer = eval.Tuple{Src: p.Src, Dst: p.Dst, SrcPort: p.SrcPort, DstPort: p.DstPort}
			c.conn.Answer = conn.Answer
		}
		if conn.Answer.Src != original.Dst || conn.Answer.SrcPort != original.DstPort {
			conn.Status |= eval.DstNAT
		}
		if conn.Answer.Dst != original.Src || conn.Answer.DstPort != original.SrcPort {
			conn.Status |= eval.SrcNAT
		}
	} else {
		conn.State = eval.New
		conn.Answer = eval.Tuple{Src: p.Dst, Dst: p.Src, SrcPort: p.DstPort, DstPort: p.SrcPort}
	}
	if st.first.ctDirection >= 0 {
		conn.Seen = true
		conn.State = st.first.ctState
		conn.Status = st.first.ctStatus
		conn.Reply = st.first.ctDirection == 1
	} else if st.hook != eval.Prerouting && st.hook != eval.Ingress && st.hook != eval.Output {
		conn.Untracked, conn.Seen = true, true
	}
	if p.In.Name == "lo" && st.hook == eval.Prerouting {
		// The packet comes with what the output hook has made of it.
		conn.Seen, conn.Untracked = true, true
		for _, e := range st.events {
			if e.ctDirection >= 0 {
				conn.Untracked, conn.State, conn.Status = false, e.ctState, e.ctStatus
				break
			}
		}
	}
	conn.MarkUnknown = c.marksConn
	p.CT = conn
}

// unread are conditions that this test's facts do not know.
var unread = regexp.MustCompile(`\bfib |doff|window|checksum|flowlabel|limit|random|numgen|jhash|quota|ct count|cpu|option|rt mtu|ip id|queue|addrtype|rpfilter|-m `)

// run compares one stay.
func (c *comparison) run(sc *scenario, st *stay, p eval.Packet, next *stay) error {
	outcomes, err := eval.Run(c.rs, st.hook, p, c)
	if err != nil {
		return fmt.Errorf("evaluate: %w", err)
	}
	c.hooks++
	last := st.events[len(st.events)-1]
	dropped := last.kind == tracePolicy && last.policy == 0 || last.kind == traceRule && last.verdict == 0
	if st.hook == eval.Output && !dropped && next == nil {
		return nil // no route is left where a nat chain has led it
	}
	var failures []string
	for _, o := range outcomes {
		why := c.differs(o, st, last, dropped, next)
		if dropped && strings.HasPrefix(why, "another ") && unread.MatchString(sc.String()) {
			why = "" // of rules that drop it, eval names one that certainly does
		}
		if why == "" {
			switch {
			case len(outcomes) > 1 || len(o.If) > 0:
				c.ends["uncertain"]++
				if !sc.unknowable {
					c.ends["uncertain without a reason"]++
					c.ends["uncertain: "+o.If[0].Reason]++
				}
			case dropped:
				c.ends["dropped at "+st.hook.String()]++
			default:
				c.ends["accepted"]++
			}
			return nil
		}
		failures = append(failures, fmt.Sprintf("  %s by %s if %v: %s", o.End, c.by(o), reasons(o), why))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "at %s, a packet %s:%d > %s:%d in %s out %s flags %#x mark %#x ct %+v\n", st.hook, p.Src, p.SrcPort, p.Dst, p.DstPort, p.In.Name, p.Out.Name, p.TCPFlags, p.Mark, p.CT)
	fmt.Fprintf(&b, "predicted:\n%s\nmet:\n", strings.Join(failures, "\n"))
	for _, e := range st.events {
		fmt.Fprintf(&b, "  %s %s\n", e, c.comment(e))
	}
	if next != nil {
		fmt.Fprintf(&b, "next: %s", next.first)
	}
	return errors.New(b.String())
}

func reasons(o eval.Outcome) (all []string) {
	for _, u := range o.If {
		all = append(all, u.Reason)
	}
	return all
}

// by names what decided.
func (c *comparison) by(o eval.Outcome) string {
	switch {
	case o.By != nil:
		return fmt.Sprintf("%s %s %s handle %d %s", o.By.Chain.Table.Family, o.By.Chain.Table.Name, o.By.Chain.Name, o.By.Handle, o.By.Comment)
	case o.Chain != nil:
		return fmt.Sprintf("policy of %s %s %s", o.Chain.Table.Family, o.Chain.Table.Name, o.Chain.Name)
	}
	return "nothing"
}

// comment is that of an event's rule.
func (c *comparison) comment(e event) string {
	for _, t := range c.rs.Tables {
		if uint8(t.Family) != e.family || t.Name != e.table || t.Legacy {
			continue
		}
		ch := t.Chain(e.chain)
		if ch == nil {
			continue
		}
		list, err := c.reader.Rules(ch)
		require.NoError(c, err)
		for _, r := range list {
			if r.Handle == e.handle {
				return commentOf(r)
			}
		}
	}
	return ""
}

// commentOf is the comment of a rule of nftables or iptables.
func commentOf(r *rules.Rule) string {
	for _, x := range r.Exprs {
		// The last one: those before it are part of what is random.
		if m, ok := x.(rules.Match); ok && m.Name == "comment" {
			r.Comment = unix.ByteSliceToString(m.Info)
		}
	}
	return r.Comment
}

// differs says in what an outcome is not what the packet met.
func (c *comparison) differs(o eval.Outcome, st *stay, last event, dropped bool, next *stay) string {
	if (o.End == eval.Dropped || o.End == eval.Rejected) != dropped {
		return "the end is another"
	}
	if dropped {
		if last.kind == tracePolicy {
			if o.By != nil || o.Chain == nil || o.Chain.Name != last.chain || o.Chain.Table.Name != last.table {
				return "another thing decided"
			}
			return ""
		}
		if o.By == nil || o.By.Handle != last.handle || o.By.Chain.Table.Name != last.table {
			return "another rule decided"
		}
		return ""
	}
	if !o.Packet.MarkUnknown && o.Packet.Mark != last.mark {
		return fmt.Sprintf("mark %#x is %#x", o.Packet.Mark, last.mark)
	}
	if next == nil || next.first.table == tracerTable || next.first.id != st.first.id {
		return ""
	}
	p, ok := c.packet(next)
	if !ok {
		return ""
	}
	if p.Dst != o.Packet.Dst || p.DstPort != o.Packet.DstPort {
		return fmt.Sprintf("destination %s:%d is %s:%d", o.Packet.Dst, o.Packet.DstPort, p.Dst, p.DstPort)
	}
	return ""
}

// The facts that eval asks for.

func (c *comparison) Rules(ch *rules.Chain) ([]*rules.Rule, error) { return c.reader.Rules(ch) }

func (c *comparison) Get(s *rules.Set, key []byte) (rules.Element, bool, error) {
	return c.reader.Get(s, key)
}

func (c *comparison) Elements(s *rules.Set, limit int) ([]rules.Element, bool, error) {
	return c.reader.Elements(s, limit)
}

func (c *comparison) Object(t *rules.Table, typ uint32, name string) (rules.Object, error) {
	return c.reader.Object(t, typ, name)
}

func (c *comparison) IPsec() (bool, error) { return false, nil }

func (c *comparison) IPSet(uint16, xt.SetQuery) (bool, error) { return false, errors.ErrUnsupported }

func (c *comparison) Recent(string) ([]xt.RecentEntry, error) { return nil, errors.ErrUnsupported }

// Fib knows the type of IPv4 addresses alone, and which addresses are the host's.
func (c *comparison) Fib(p *eval.Packet, _ uint32, flags, result uint32) ([]byte, error) {
	if result != unix.NFT_FIB_RESULT_ADDRTYPE || flags&^(unix.NFTA_FIB_F_DADDR|unix.NFTA_FIB_F_SADDR) != 0 {
		return nil, errors.ErrUnsupported
	}
	a := p.Dst
	if flags&unix.NFTA_FIB_F_SADDR != 0 {
		a = p.Src
	}
	typ := uint32(unix.RTN_UNICAST)
	for _, i := range c.links {
		for _, own := range i.Addresses {
			if own.Addr() == a {
				typ = unix.RTN_LOCAL
			}
		}
	}
	if typ == unix.RTN_UNICAST && !a.Is4() {
		return nil, errors.ErrUnsupported
	}
	return binary.NativeEndian.AppendUint32(nil, typ), nil
}
