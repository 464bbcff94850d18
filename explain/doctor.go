// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"context"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/nftnat/nftnat/explain/internal/host"
	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/nat"
)

// Examination says what Doctor looks at.
type Examination struct {
	// Mappings are all published ports; ranges may be among them.
	Mappings iter.Seq[nat.Mapping]
	// Proxies is whether a daemon serves clients that netfilter cannot: those on this host, and of the
	// other family than the backend. If not, they are not looked at.
	Proxies bool
	// Known is what the caller has found by other means. What says the same as an explanation is left
	// out.
	Known []Finding
	// Time is how long it may take. Zero: four seconds.
	Time time.Duration
	// Probes keeps what backends have answered for later examinations. Nil: each is asked now.
	Probes *Probes
}

// Bounds of one examination.
const (
	examinationTime = 4 * time.Second
	// probeShare is the part of the time in which backends are asked.
	probeShare = 3
	maxProbed  = 4096
	// maxApart is how many addresses are looked at one by one. Of more, those are taken together that
	// rules, routes and links treat alike.
	maxApart = 256
	// maxLooked is of how many sockets the processes are looked for.
	maxLooked = 64
	// nearlyFull is how many percent of connection tracking are worth a finding.
	nearlyFull = 90
)

// Doctor looks for what is wrong on a host: it explains every mapping, from clients of each uplink and of
// this host, and looks at the host's own state. Mappings that nothing tells apart are
// explained once. The error says that nothing could be read.
func (e *Explainer) Doctor(ctx context.Context, x Examination) (report.Diagnosis, error) {
	s, err := e.Snapshot(ctx)
	if err != nil {
		return report.Diagnosis{}, err
	}
	d := newDoctor(ctx, s, x)
	d.collect()
	d.ask()
	for _, g := range d.groups() {
		d.examine(g)
	}
	d.host(&e.drops)
	return d.conclude(), ctx.Err()
}

// doctor is one examination.
type doctor struct {
	*Snapshot
	ctx context.Context //nolint:containedctx // of one call
	Examination
	begin time.Time
	apart *apart
	// all has a port of each range of them that nothing tells apart, and more how many more there
	// are.
	all  []nat.Mapping
	more []uint16
	// served are the mappings of each port that has several.
	served   map[protoPort][]nat.Mapping
	backends map[netip.Addr]bool // addresses of backends
	fronts   map[netip.Addr]bool
	segments map[int]bool // interfaces by which backends are reached
	gateways map[netip.Addr]bool
	sockets  map[protoPort][]*host.Socket
	uplinks  map[bool][]netip.Addr // typical clients, of IPv4 and IPv6
	proxies  map[uint32]bool       // inodes of the sockets of the process that has the proxies
	looked   map[*host.Socket]bool
	found    map[string]*finding
	order    []string
	result   report.Diagnosis
}

type protoPort struct {
	proto nat.Proto
	port  uint16
}

// finding is what becomes a Finding.
type finding struct {
	Finding
	ordinals []int // of Mappings
	backend  bool  // it is about ports of a backend, of which Thing names the first
	typical  bool  // it is about the first client of a mapping
	from     []netip.Addr
}

func newDoctor(ctx context.Context, s *Snapshot, x Examination) *doctor {
	if x.Time == 0 {
		x.Time = examinationTime
	}
	return &doctor{
		Snapshot: s, ctx: ctx, Examination: x, begin: time.Now(), apart: newApart(), served: map[protoPort][]nat.Mapping{}, backends: map[netip.Addr]bool{},
		fronts: map[netip.Addr]bool{}, segments: map[int]bool{}, gateways: map[netip.Addr]bool{}, sockets: map[protoPort][]*host.Socket{}, uplinks: map[bool][]netip.Addr{}, looked: map[*host.Socket]bool{}, found: map[string]*finding{},
	}
}

// late reports whether the time is over.
func (d *doctor) late() bool { return d.ctx.Err() != nil || time.Since(d.begin) > d.Time }

// collect takes over the mappings, and what the host tells them apart by.
func (d *doctor) collect() {
	var list []nat.Mapping
	for m := range d.Mappings {
		list = append(list, m)
		d.all = append(d.all, portOf(m, 0)) // all ports of it lead to the same address
		d.backends[m.Backend.Addr()] = true
		d.fronts[m.Frontend.Addr()] = true
	}
	if len(d.all) == 0 {
		return
	}
	d.routed(d.apart)
	d.apart.sort()
	d.segmented()
	x := d.walk(d.all[0])
	for _, is4 := range []bool{true, false} {
		d.uplinks[is4] = d.clientsOf(x, is4)
	}
	d.eval.tells(d.apart, d.options.Table, d.met())
	d.filtered()
	if len(d.backends) <= maxApart {
		d.within()
	}
	d.apart.sort()
	if d.options.PID != 0 {
		d.proxies, _ = d.facts.SocketsOf(d.options.PID) // else each is looked for
	}
	for _, proto := range []nat.Proto{nat.TCP, nat.UDP} {
		list, err := d.facts.Listeners(protoOf(proto))
		if err != nil {
			d.failed("sockets", err)
		}
		for _, s := range list {
			key := protoPort{proto, s.Addr.Port()}
			d.sockets[key] = append(d.sockets[key], s)
		}
	}
	d.split(list)
}

// portOf returns the mapping of one port of a range, by its distance from the first.
func portOf(m nat.Mapping, by int) nat.Mapping {
	m.More = 0
	m.Frontend = netip.AddrPortFrom(m.Frontend.Addr(), m.Frontend.Port()+uint16(by))
	m.Backend = netip.AddrPortFrom(m.Backend.Addr(), m.Backend.Port()+uint16(by))
	return m
}

// split takes over the ports of mappings. Ports of a range that nothing tells apart are one: where
// a rule, a route, a socket or another mapping does, it is split.
func (d *doctor) split(list []nat.Mapping) {
	d.all = d.all[:0]
	cuts := d.cuts(list)
	first := map[protoPort]nat.Mapping{}
	for _, m := range list {
		for from := 0; from <= int(m.More); {
			next := from + 1
			if wide := m.More != 0 && m.Frontend.Port() == m.Backend.Port() && !d.apart.eachPort; wide {
				i, found := slices.BinarySearch(cuts[m.Proto], int(m.Frontend.Port())+from)
				if found {
					i++
				}
				next = int(m.More) + 1
				if i < len(cuts[m.Proto]) {
					next = min(next, cuts[m.Proto][i]-int(m.Frontend.Port()))
				}
			}
			one := portOf(m, from)
			d.add(one, uint16(next-from-1), first)
			from = next
		}
	}
}

// add takes over a port, and so many more that nothing tells from it.
func (d *doctor) add(one nat.Mapping, more uint16, first map[protoPort]nat.Mapping) {
	d.all = append(d.all, one)
	d.more = append(d.more, more)
	key := protoPort{one.Proto, one.Frontend.Port()}
	other, again := first[key]
	switch {
	case !again:
		first[key] = one
	case d.served[key] == nil:
		d.served[key] = []nat.Mapping{other, one}
	default:
		d.served[key] = append(d.served[key], one)
	}
}

// cuts returns for each protocol the ports, in order, that begin something else than the port before
// them. There are none where no mapping is a range.
func (d *doctor) cuts(list []nat.Mapping) map[nat.Proto][]int {
	if !slices.ContainsFunc(list, func(m nat.Mapping) bool { return m.More != 0 }) {
		return nil
	}
	cuts := map[nat.Proto][]int{}
	for _, proto := range []nat.Proto{nat.TCP, nat.UDP} {
		for _, port := range d.apart.sortedPorts {
			cuts[proto] = append(cuts[proto], int(port))
		}
	}
	for _, m := range list {
		cuts[m.Proto] = append(cuts[m.Proto], int(m.Frontend.Port()), int(m.Frontend.Port())+int(m.More)+1)
	}
	for key, list := range d.sockets {
		if !slices.ContainsFunc(list, func(s *host.Socket) bool { return !d.inner(s) }) {
			continue
		}
		cuts[key.proto] = append(cuts[key.proto], int(key.port), int(key.port)+1)
	}
	for proto := range cuts {
		slices.Sort(cuts[proto])
		cuts[proto] = slices.Compact(cuts[proto])
	}
	return cuts
}

// inner reports whether a socket is that of the proxies to which eBPF leads what comes to many ports:
// its own port says nothing.
func (d *doctor) inner(s *host.Socket) bool { return s.Addr.Addr().Unmap().IsLoopback() && d.ours(s) }

// published returns a mapping of d.all as it is published: with the ports that nothing tells from it.
func (d *doctor) published(i int) nat.Mapping {
	m := d.all[i]
	m.More = d.more[i]
	return m
}

// segmented finds the interfaces by which backends are reached. Of addresses that no route tells apart,
// one is looked up.
func (d *doctor) segmented() {
	done := map[int]bool{}
	for a := range d.backends {
		if n := d.apart.addr(a); !done[n] {
			done[n] = true
			if r, _, err := d.lookup(host.RouteQuery{Dst: a}); err == nil && r != nil {
				d.segments[r.Oif] = true
			}
		}
	}
}

// met are the addresses of the packets that are followed; nil: they are not known.
func (d *doctor) met() map[netip.Addr]bool {
	met := maps.Clone(d.backends)
	maps.Copy(met, d.fronts)
	links, err := d.facts.Links()
	if err != nil {
		return nil
	}
	for _, l := range links {
		for _, a := range d.device(l.Index).addrs {
			met[a.Prefix.Addr()], met[a.Peer] = true, true
		}
	}
	for _, is4 := range []bool{true, false} {
		for _, a := range d.uplinks[is4] {
			met[a] = true
		}
		for _, l := range links {
			if c, ok := d.walk(d.all[0]).neighbourOf(d.device(l.Index), is4); ok {
				met[c] = true
			}
		}
	}
	for _, a := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback(), elsewhere4, elsewhere6} {
		met[a] = true
	}
	from := map[nat.Sources]bool{}
	for _, m := range d.all {
		if !m.From.IsZero() && !from[m.From] {
			from[m.From] = true
			for _, is4 := range []bool{true, false} {
				for _, a := range d.allowed(m, netip.Addr{}, is4) {
					met[a] = true
				}
			}
		}
	}
	for a := range d.gateways {
		met[a] = true
	}
	return met
}

// within looks at the rules in the namespaces of backends that are on this machine.
func (d *doctor) within() {
	for a := range d.backends {
		p, err := d.facts.Peer(a)
		if err != nil || p == nil {
			continue
		}
		p.tells(d.apart, d.options.Table, nil)
		if err := p.Close(); err != nil {
			d.failed("namespace of "+addr(a), err)
		}
	}
}

// filtered gives up on telling packets apart where traffic control looks at them.
func (d *doctor) filtered() {
	links, err := d.facts.Links()
	if err != nil {
		d.failed("interfaces", err)
	}
	for _, l := range links {
		for _, egress := range []bool{false, true} {
			if list, err := d.facts.Filters(l.Index, egress); err == nil && len(list) > 0 {
				d.apart.eachPort, d.apart.eachAddr = true, true
			}
		}
	}
}

// walk is a walk of no packet, for questions.
func (d *doctor) walk(m nat.Mapping) *walk { return d.Snapshot.walk(d.ctx, m) }

// clientsOf are typical clients of each uplink: one behind the default route, and one on each other link
// that takes packets and leads to no backend.
func (d *doctor) clientsOf(x *walk, is4 bool) (list []netip.Addr) {
	from := elsewhere6
	if is4 {
		from = elsewhere4
	}
	byDefault := 0
	if r, _, err := x.lookup(host.RouteQuery{Dst: from}); err == nil && r != nil && !x.device(r.Oif).loopback() && x.sourceOf(r, from).IsValid() {
		byDefault = r.Oif
		list = append(list, from)
	}
	for _, index := range x.links() {
		l := x.device(index)
		if index == byDefault || d.segments[index] || l.Kind == "bridge" || l.Kind == "dummy" || l.Why() != "" {
			continue
		}
		if a, ok := x.neighbourOf(l, is4); ok {
			list = append(list, a)
		}
	}
	return list
}

// ask asks the backends whether they are there, each once.
func (d *doctor) ask() {
	if d.options.ProbeTimeout < 0 {
		return
	}
	ctx, cancel := context.WithDeadline(d.ctx, d.begin.Add(d.Time/probeShare))
	defer cancel()
	type asked struct {
		proto nat.Proto
		addr  netip.Addr
		port  int
	}
	type seen struct{ sees, sure bool }
	unseen := host.ProbeResult{Text: "the host's own packets to it may be stopped"}
	reaches := map[asked]seen{}
	var list []host.Backend
	d.Probes.forget(d.begin)
	met := map[probedKey]bool{}
	for i, m := range d.all {
		key := probedKey{protoOf(m.Proto), m.Backend}
		if met[key] || d.more[i] != 0 { // of a range, few ports are in use at a time
			continue
		}
		met[key] = true
		if r, ok := d.Probes.fresh(key, d.begin); ok {
			d.probed[key] = r
			continue
		}
		if len(list) == maxProbed || ctx.Err() != nil {
			d.result.NotAsked++
			d.probed[key] = host.ProbeResult{Text: "there are too many backends"}
			continue
		}
		a := asked{m.Proto, m.Backend.Addr(), d.apart.port(m.Backend.Port())}
		switch s := known(reaches, a, func() (s seen) { s.sees, s.sure = d.walk(m).sees(m.Backend); return s }); {
		case !s.sees:
			d.probed[key] = unseen
		default:
			list = append(list, host.Backend{Proto: key.proto, Addr: m.Backend})
		}
	}
	for i, r := range d.facts.ProbeAll(ctx, list, min(d.options.ProbeTimeout, d.Time/probeShare)) {
		b := list[i]
		proto := nat.Proto(b.Proto)
		switch {
		case r.Answer == host.Silent && ctx.Err() != nil:
			r = host.ProbeResult{Text: "there was no time"}
			d.result.NotAsked++
		case !reaches[asked{proto, b.Addr.Addr(), d.apart.port(b.Addr.Port())}].sure && r.Answer != host.Answers && r.Answer != host.Refused:
			r = unseen
		}
		d.probed[probedKey{b.Proto, b.Addr}] = r
		d.Probes.keep(probedKey{b.Proto, b.Addr}, r, d.begin)
	}
	d.resolved()
}

// conclude sorts what was found.
func (d *doctor) conclude() report.Diagnosis {
	for _, key := range d.order {
		f := d.found[key]
		if !f.typical {
			slices.SortFunc(f.from, netip.Addr.Compare)
			f.From = slices.Compact(f.from)
		}
		if f.backend && f.Count > 1 {
			f.Thing += " and others of it"
		}
		d.result.Findings = append(d.result.Findings, f.Finding)
	}
	d.result.Findings = append(d.result.Findings, d.unsaid()...)
	report.SortFindings(d.result.Findings)
	d.result.Unread = d.walk(nat.Mapping{}).unreadNow()
	return d.result
}
