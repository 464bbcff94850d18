// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/nat"
)

// fake is a host: eth0 with 192.0.2.1 and 2001:db8::1 towards clients, br0 with 172.30.0.1 and
// fd30::1 and the port vb1 towards the backend 172.30.0.2, and eth1 with 198.51.100.1.
type fake struct {
	leads          bool          // programs of eBPF lead sockets on localhost
	leadsPorts     *host.Process // whose program of eBPF leads packets to many ports to one socket
	links          []*host.Link
	addrs          []*host.Address
	routes         []*host.Route
	fault          func(q host.RouteQuery) *host.RouteFault
	instead        func(q host.RouteQuery) *host.Route
	neighbours     []*host.Neighbour
	fdb            map[string]int
	settings       map[string]int
	ct             *host.Conntrack
	sockets        []*host.Socket
	tc             map[string]host.TCVerdict
	qdiscs         map[int][]*host.Qdisc
	probe          host.ProbeResult
	probed         int
	lostOwnAddress bool   // bridges do not know their own addresses
	filtered       uint64 // packets that the reverse path filter has dropped
	hardware       map[netip.Addr][]byte
	entries        []*host.Entry
	peer           *fakePeer
	xfrm           func(dir host.XFRMDir, q host.RouteQuery) *host.XFRMPolicy
	programs       []host.NFProgram
}

const (
	lo = iota + 1
	eth0
	br0
	vb1
	eth1
)

// stoppedPID is a process that was stopped.
const stoppedPID = 13

const up = unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_LOWER_UP

func newFake() *fake {
	link := func(index int, name, kind string, typ uint16) *host.Link {
		return &host.Link{Index: index, Name: name, Type: typ, Kind: kind, Flags: up | unix.IFF_BROADCAST, OperState: 6, Carrier: true, MTU: 1500, MAC: []byte{2, 0, 0, 0, 0, byte(index)}}
	}
	f := &fake{
		links: []*host.Link{link(lo, "lo", "", unix.ARPHRD_LOOPBACK), link(eth0, "eth0", "veth", 1), link(br0, "br0", "bridge", 1), link(vb1, "vb1", "veth", 1), link(eth1, "eth1", "veth", 1)},
		fdb:   map[string]int{"backend": vb1}, settings: map[string]int{}, tc: map[string]host.TCVerdict{}, qdiscs: map[int][]*host.Qdisc{},
		ct:    &host.Conntrack{Count: 10, Max: 1000},
		probe: host.ProbeResult{Answer: host.Answers},
	}
	f.links[0].Flags = up | unix.IFF_LOOPBACK
	f.links[2].Bridge = &host.Bridge{}
	f.links[3].Master, f.links[3].MasterKind, f.links[3].Port = br0, "bridge", &host.BridgePort{State: 3, Flood: true, FloodAll: true}
	for _, a := range []struct {
		link int
		addr string
	}{
		{lo, "127.0.0.1/8"},
		{lo, "::1/128"},
		{eth0, "192.0.2.1/24"},
		{eth0, "2001:db8::1/64"},
		{eth0, "fe80::1/64"},
		{br0, "172.30.0.1/24"},
		{br0, "fd30::1/64"},
		{eth1, "198.51.100.1/24"},
	} {
		f.address(a.link, a.addr)
	}
	return f
}

// address adds an address, and the routes that come with it.
func (f *fake) address(link int, text string) {
	p := netip.MustParsePrefix(text)
	f.addrs = append(f.addrs, &host.Address{Link: link, Prefix: p})
	f.routes = append(f.routes, &host.Route{Type: unix.RTN_LOCAL, Table: 255, Dst: netip.PrefixFrom(p.Addr(), p.Addr().BitLen()), Oif: lo, PrefSrc: p.Addr(), Text: "local " + p.Addr().String()})
	if p.Addr().IsLoopback() {
		return
	}
	f.route(p.Masked().String(), "", link, p.Addr())
}

func (f *fake) route(to, via string, link int, src netip.Addr) {
	r := &host.Route{Type: unix.RTN_UNICAST, Table: 254, Dst: netip.MustParsePrefix(to), Oif: link, PrefSrc: src}
	r.Text = to
	if r.Dst.Bits() == 0 {
		r.Text = "default"
	}
	if via != "" {
		r.Gateway = netip.MustParseAddr(via)
		r.Text += " via " + via
	}
	r.Text += " dev " + f.links[link-1].Name + " in table main"
	f.routes = append(f.routes, r)
}

func (f *fake) Link(index int) (*host.Link, error) {
	if index < 1 || index > len(f.links) {
		return nil, fs.ErrNotExist
	}
	return f.links[index-1], nil
}

func (f *fake) Links() ([]*host.Link, error) { return f.links, nil }

func (f *fake) Ports(bridge int) (ports []*host.Link, err error) {
	for _, l := range f.links {
		if l.Master == bridge {
			ports = append(ports, l)
		}
	}
	return ports, nil
}

func (f *fake) Address(a netip.Addr) (*host.Address, error) {
	for _, o := range f.addrs {
		if o.Prefix.Addr() == a {
			return o, nil
		}
	}
	return nil, nil
}

func (f *fake) AddressesOf(link int) (as []*host.Address, err error) {
	for _, o := range f.addrs {
		if o.Link == link {
			as = append(as, o)
		}
	}
	return as, nil
}

func (f *fake) AddressType(a netip.Addr, _ int) (host.RouteType, error) {
	if r := f.best(a); r != nil {
		return r.Type, nil
	}
	return unix.RTN_UNICAST, nil
}

func (f *fake) best(a netip.Addr) (best *host.Route) {
	for _, r := range f.routes {
		if r.Dst.Contains(a) && (best == nil || r.Dst.Bits() > best.Dst.Bits()) {
			best = r
		}
	}
	return best
}

func (f *fake) Lookup(q host.RouteQuery) (*host.Route, *host.RouteFault, error) {
	if f.fault != nil {
		if fault := f.fault(q); fault != nil {
			return nil, fault, nil
		}
	}
	return f.FIB(q)
}

func (f *fake) PolicyRules(bool) ([]*host.PolicyRule, error) { return nil, nil }

func (f *fake) FIB(q host.RouteQuery) (*host.Route, *host.RouteFault, error) {
	if f.instead != nil {
		if r := f.instead(q); r != nil {
			return r, nil, nil
		}
	}
	if r := f.best(q.Dst); r != nil {
		return r, nil, nil
	}
	return nil, &host.RouteFault{Kind: host.FaultNoRoute, Thing: "no route to " + q.Dst.String()}, nil
}

func (f *fake) Neighbour(a netip.Addr, link int) (*host.Neighbour, error) {
	for _, n := range f.neighbours {
		if n.Addr == a && n.Link == link {
			return n, nil
		}
	}
	return nil, nil
}

func (f *fake) ProxyNeighbour(netip.Addr, int) (bool, error) { return false, nil }

func (f *fake) FDB(bridge int, mac []byte) (*host.FDB, error) {
	if slices.Equal(mac, f.links[bridge-1].MAC) && !f.lostOwnAddress {
		return &host.FDB{Port: bridge, Local: true}, nil
	}
	if port, ok := f.fdb[string(mac)]; ok {
		return &host.FDB{Port: port}, nil
	}
	return nil, nil
}

func (f *fake) SysctlInt(name string) (int, error) {
	if v, ok := f.settings[name]; ok {
		return v, nil
	}
	return 0, fs.ErrNotExist
}

func (f *fake) Setting(is4 bool, link int, name string) (int, string, error) {
	family := "ipv6"
	if is4 {
		family = "ipv4"
	}
	from := fmt.Sprintf("net.%s.conf.%s.%s", family, f.links[link-1].Name, name)
	return f.settings[from], from, nil
}

func (f *fake) Counter(string, string) (uint64, error) { return f.filtered, nil }

func (f *fake) Conntrack() (*host.Conntrack, error) { return f.ct, nil }

func (f *fake) EntriesOf(uint8, netip.Addr, netip.AddrPort) ([]*host.Entry, error) {
	return f.entries, nil
}

func (f *fake) Listener(proto uint8, to netip.AddrPort, _ int) (*host.Socket, error) {
	for _, s := range f.sockets {
		if s.Proto == proto && s.Addr.Port() == to.Port() && (s.Addr.Addr().IsUnspecified() || s.Addr.Addr() == to.Addr()) {
			return s, nil
		}
	}
	return nil, nil
}

func (f *fake) Stopped(pid int) bool { return pid == stoppedPID }

func (f *fake) LeadsLocalhost(int, string) bool { return f.leads }

func (f *fake) LeadsPorts(int, string) *host.Process { return f.leadsPorts }

func (f *fake) LocalPorts() (first, last uint16, err error) { return 32768, 60999, nil }

func (f *fake) Owner(int) (uid, gid uint32, err error) { return 33, 34, nil }

func (f *fake) Qdiscs(link int) ([]*host.Qdisc, error) { return f.qdiscs[link], nil }

func (f *fake) Classify(link int, egress bool, frame []byte, header int, _ uint16) (host.TCVerdict, *host.TCFilter, error) {
	if l := f.links[link-1]; frame[header]>>4 != 4 && frame[header]>>4 != 6 || (header == 0) == (l.Type == unix.ARPHRD_ETHER || l.Type == unix.ARPHRD_LOOPBACK) {
		return host.TCUnknown, nil, fmt.Errorf("a frame of %s with a header of %d bytes", l.Name, header)
	}
	v := f.tc[fmt.Sprintf("%d/%t", link, egress)]
	return v, &host.TCFilter{Link: link, Egress: egress, Kind: "bpf", Priority: 7, Text: "filter dev"}, nil
}

func (f *fake) Probe(context.Context, uint8, netip.AddrPort, time.Duration) host.ProbeResult {
	f.probed++
	return f.probe
}

func (f *fake) WhoHas(a netip.Addr, _ *host.Link, _ netip.Addr, _ time.Duration) ([]byte, error) {
	if mac, ok := f.hardware[a]; ok {
		return mac, nil
	}
	return []byte{2, 0, 0, 0, 0, 2}, nil // everybody is there
}

func (f *fake) Peer(netip.Addr) (peer, error) {
	if f.peer == nil {
		return nil, nil
	}
	return f.peer, nil
}

// fakePeer is the namespace of a backend, which comes in by eth0.
type fakePeer struct {
	*fake
	*fakeRules
}

func (*fakePeer) in() int      { return eth0 }
func (*fakePeer) Close() error { return nil }

// newPeer is a backend 172.30.0.2 with a default route by the host.
func newPeer() *fakePeer {
	f := newFake()
	f.addrs, f.routes = nil, nil
	f.address(lo, "127.0.0.1/8")
	f.address(eth0, "172.30.0.2/24")
	f.route("0.0.0.0/0", "172.30.0.1", eth0, netip.MustParseAddr("172.30.0.2"))
	return &fakePeer{f, &fakeRules{}}
}

func (f *fake) Routes(bool, uint32) ([]*host.Route, error) { return nil, nil }

func (f *fake) Filters(int, bool) ([]*host.TCFilter, error) { return nil, nil }

func (f *fake) Listeners(uint8) ([]*host.Socket, error) { return nil, nil }

func (f *fake) SocketsOf(int) (map[uint32]bool, error) { return nil, nil }

func (f *fake) FindProcess(*host.Socket) {}

func (f *fake) ProbeAll(ctx context.Context, backends []host.Backend, timeout time.Duration) (list []host.ProbeResult) {
	for _, b := range backends {
		list = append(list, f.Probe(ctx, b.Proto, b.Addr, timeout))
	}
	return list
}

func (f *fake) PeerOf(*host.Link) (peer, error) { return f.Peer(netip.Addr{}) }

func (f *fake) XFRM(dir host.XFRMDir, q host.RouteQuery) (*host.XFRMPolicy, bool, error) {
	if f.xfrm == nil {
		return nil, true, nil
	}
	return f.xfrm(dir, q), true, nil
}

func (f *fake) NFPrograms() ([]host.NFProgram, error) { return f.programs, nil }

func (f *fake) Unread() []string { return nil }

// fakeRules evaluates: the frontend is translated, and what stops has a verdict.
type fakeRules struct {
	backend netip.AddrPort
	rule    *rules.Rule
	stop    func(h eval.Hook, p *eval.Packet) []eval.Outcome
	seen    []string
	// keepSource is set to leave out the hairpin.
	keepSource bool
	changes    int   // how often the rules have changed while they were read
	err        error // of prerouting
}

func table(family rules.Family, name, chain string, hook uint32, priority int32) *rules.Chain {
	t := &rules.Table{Family: family, Name: name}
	c := &rules.Chain{Table: t, Name: chain, Base: &rules.Base{Type: "filter", Hook: hook, Priority: priority}}
	t.Chains = []*rules.Chain{c}
	return c
}

func (f *fakeRules) run(h eval.Hook, p *eval.Packet) ([]eval.Outcome, error) {
	if h == eval.Prerouting && f.err != nil {
		return nil, f.err
	}
	f.seen = append(f.seen, fmt.Sprintf("%s %s>%s %s:%d>%s:%d", h, p.In.Name, p.Out.Name, p.Src, p.SrcPort, p.Dst, p.DstPort))
	if f.stop != nil {
		if o := f.stop(h, p); o != nil {
			return o, nil
		}
	}
	o := eval.Outcome{Packet: *p}
	if p.EtherType == unix.ETH_P_ARP || p.Proto == unix.IPPROTO_ICMPV6 {
		return []eval.Outcome{o}, nil
	}
	q := &o.Packet
	if h == eval.Prerouting || h == eval.Output {
		q.CT.Seen = true
		if q.CT.State == 0 {
			q.CT.State = eval.New
			q.CT.Original = eval.Tuple{Src: p.Src, Dst: p.Dst, SrcPort: p.SrcPort, DstPort: p.DstPort}
		}
		first := !q.CT.Reply && q.CT.Status&eval.DstNATDone == 0
		if first && p.Dst.Is4() == f.backend.Addr().Is4() && p.DstPort == 8080 && !p.Src.IsLoopback() && !p.CT.Untracked || !q.CT.Reply && q.CT.Status&eval.DstNAT != 0 {
			if p.DstPort == 8080 {
				q.Dst, q.DstPort = f.backend.Addr(), f.backend.Port()
				o.Translated = f.rule
				q.CT.Status |= eval.DstNAT
				q.CT.Answer = eval.Tuple{Src: q.Dst, Dst: p.Src, SrcPort: q.DstPort, DstPort: p.SrcPort}
				o.Reroute = h == eval.Output
			}
		}
	}
	if h == eval.Postrouting && !q.CT.Reply && p.In.Index == p.Out.Index && !f.keepSource { // hairpin
		q.Src, q.CT.Status = netip.MustParseAddr("172.30.0.1"), q.CT.Status|eval.SrcNAT
	}
	if h == eval.Prerouting && q.CT.Reply && q.CT.Status&eval.SrcNAT != 0 {
		q.Dst = q.CT.Original.Src
	}
	if (h == eval.Postrouting || h == eval.Input) && q.CT.Reply && q.CT.Status&eval.DstNAT != 0 {
		q.Src, q.SrcPort = q.CT.Original.Dst, q.CT.Original.DstPort
	}
	return []eval.Outcome{o}, nil
}

func (f *fakeRules) changed() (bool, error) {
	f.changes--
	return f.changes >= 0, nil
}

func (f *fakeRules) clamps() bool { return false }

func (f *fakeRules) tells(*apart, string, map[netip.Addr]bool) {}

func (f *fakeRules) setName(uint16) string { return "" }

func dropped(p *eval.Packet, c *rules.Chain, r *rules.Rule) []eval.Outcome {
	if r != nil {
		r.Chain = c
	}
	return []eval.Outcome{{End: eval.Dropped, Packet: *p, Chain: c, By: r}}
}

// scene is a host, its rules and a mapping.
type scene struct {
	*fake
	rules   *fakeRules
	mapping nat.Mapping
	others  []nat.Mapping // that a packet may go by as well
	pid     int
}

func newScene(t *testing.T, mapping string) *scene {
	t.Helper()
	m, err := nat.ParseMappingText(mapping)
	if err != nil {
		t.Fatal(err)
	}
	own := table(unix.NFPROTO_INET, "nftnat", "publish", 0, -100)
	return &scene{fake: newFake(), mapping: m, rules: &fakeRules{backend: m.Backend, rule: &rules.Rule{Chain: own, Handle: 7}}}
}

func (s *scene) Find(context.Context, nat.Proto, netip.AddrPort) ([]nat.Mapping, error) {
	return append([]nat.Mapping{s.mapping}, s.others...), nil
}

func (s *scene) Near(context.Context, nat.Proto, netip.AddrPort) ([]nat.Near, error) { return nil, nil }

func (s *scene) explainer() *Explainer {
	return &Explainer{
		options: Options{Table: "nftnat", Mappings: s, ProbeTimeout: time.Second, PID: s.pid}, end: func() error { return nil },
		read: func(context.Context) (facts, evaluator, error) { return s.fake, s.rules, nil },
	}
}

// ask explains: "8080 from 192.0.2.2".
func (s *scene) ask(t *testing.T, text string) Report {
	t.Helper()
	front, from, _ := strings.Cut(text, " from ")
	q := Query{Proto: s.mapping.Proto}
	frontend, _, err := nat.ParseFrontend(front)
	if err != nil {
		t.Fatal(err)
	}
	q.Frontend = frontend
	if from != "" {
		q.From = netip.MustParseAddr(from)
	}
	r, err := s.explainer().Explain(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
