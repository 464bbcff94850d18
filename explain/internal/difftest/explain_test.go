// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package difftest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain"
	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// For each client the verdict of explain is what its packets meet, and so is what the backend sees.
// NFTNAT_CASES is how many packets are sent, NFTNAT_SEED the first scenario.
func TestExplain(t *testing.T) {
	s := newSite(t)
	s.traceAll()
	c := newPrediction(s)
	n := labtest.RoundsOf(t, envCases, "packets", 500, 2000)
	seed := labtest.Number(t, envSeed, 1)
	began := time.Now()
	done := 0
	for i := 0; done < n; i++ {
		sc := s.newScenario(uint64(seed + i))
		require.NoError(t, s.load(sc, true))
		done += len(sc.clients)
		fault := c.compare(sc)
		if fault == nil {
			continue
		}
		kind, ends := fault.kind, c.ends
		c.ends = map[string]int{} // of the smaller scenarios nothing is counted
		s.shrink(sc, func() error {
			if f := c.compare(sc); f != nil && f.kind == kind {
				return f
			}
			return nil
		})
		if again := c.compare(sc); again != nil {
			fault = again
		}
		c.ends = ends
		c.ends["FAULT: "+kind]++
		t.Errorf("seed %d: %v\n%s", sc.seed, fault, sc)
		if c.faults++; c.faults >= labtest.Number(t, envFaults, mostFaults) {
			break
		}
	}
	t.Logf("%d packets in %v; explain alone %v", done, time.Since(began), c.spent)
	may, uncertain, answered := 0, 0, c.ends["passes"]
	for _, k := range slices.Sorted(maps.Keys(c.ends)) {
		if strings.HasPrefix(k, "differs, as it may") {
			may += c.ends[k]
		}
		if strings.HasPrefix(k, "uncertain without") {
			uncertain += c.ends[k]
		}
		t.Logf("%7d %5.1f %% %s", c.ends[k], 100*float64(c.ends[k])/float64(done), k)
	}
	require.Less(t, may, done/50, "too many that cannot be decided")
	require.Less(t, uncertain, done/50, "too many that are not certain, although nothing is in the rules that cannot be known")
	if done > 1000 {
		require.Greater(t, answered, done/4)
		require.Less(t, answered, done*3/4)
	}
}

// envFaults is after how many faults a run ends.
const envFaults = "NFTNAT_FAULTS"

// prediction compares what explain says with what packets meet.
type prediction struct {
	*comparison
	explainer, patient *explain.Explainer
	spent              time.Duration
}

func newPrediction(s *site) *prediction {
	s.Helper()
	c := &prediction{comparison: newComparison(s)}
	open := func(timeout time.Duration) *explain.Explainer {
		x, err := explain.New(explain.Options{NetNS: s.host.Path(), Mappings: published0(s.mappings), ProbeTimeout: timeout})
		require.NoError(s, err)
		s.Cleanup(func() { _ = x.Close() })
		return x
	}
	c.explainer, c.patient = open(300*time.Millisecond), open(10*time.Second)
	return c
}

// published0 finds mappings for explain.
type published0 []nat.Mapping

// Find returns those of the address before those of any.
func (p published0) Find(_ context.Context, proto nat.Proto, frontend netip.AddrPort) (found []nat.Mapping, err error) {
	for _, exact := range []bool{true, false} {
		for _, m := range p {
			addr := m.Frontend.Addr()
			has := addr.IsValid() && !addr.IsUnspecified()
			if m.Proto == proto && frontend.Port() >= m.Frontend.Port() && frontend.Port()-m.Frontend.Port() <= m.More &&
				has == exact && (!has || addr == frontend.Addr() || !frontend.Addr().IsValid()) {
				found = append(found, m)
			}
		}
	}
	return found, nil
}

// Near returns nothing.
func (published0) Near(context.Context, nat.Proto, netip.AddrPort) ([]nat.Near, error) {
	return nil, nil
}

// fault is how a prediction differs.
type fault struct{ kind, text string }

func (f *fault) Error() string { return f.kind + ": " + f.text }

func (c *prediction) compare(sc *scenario) *fault {
	c.readLinks()
	var err error
	if c.rs, err = c.reader.Read(context.Background()); err != nil {
		return &fault{"read", err.Error()}
	}
	for _, cl := range sc.clients {
		var r result
		if sc.afterwards {
			r = c.call(cl) // connection tracking then remembers what nothing of the host shows
		}
		at := time.Now()
		q := explain.Query{Proto: cl.mapping.Proto, Frontend: cl.frontend, From: cl.addr}
		said, err := c.ask(c.explainer, q)
		c.spent += time.Since(at)
		if err != nil {
			return &fault{"error", fmt.Sprintf("%s: %v", cl, err)}
		}
		if !sc.afterwards {
			r = c.call(cl)
		}
		if r.absent || cl.ns != c.host && len(r.events) == 0 && (errors.Is(r.err, unix.ENETUNREACH) || errors.Is(r.err, unix.EINVAL)) {
			continue // the client sends nothing
		}
		kind := c.differ(sc, cl, &said, r)
		if kind != "" && said.Cause != nil && (said.Cause.Kind == report.KindNeighbour || said.Cause.Kind == report.KindBackend) {
			// Nothing has answered explain in its time: the processor may have been elsewhere.
			c.flushConntrack()
			if said, err = c.ask(c.patient, q); err != nil {
				return &fault{"error", fmt.Sprintf("%s: %v", cl, err)}
			}
			kind = c.differ(sc, cl, &said, r)
		}
		if kind != "" && slices.ContainsFunc(said.Notes, func(n string) bool {
			return strings.HasPrefix(n, "if it asks by ") || strings.HasPrefix(n, "answers leave by ")
		}) {
			// Nobody can say by which interface such a client asks.
			c.ends["by another interface than was supposed"]++
			continue
		}
		if kind != "" && sc.routed && (cl.ns == c.other || said.Verdict == explain.Passes) {
			c.ends["differs, as it may: a router"]++ // nobody knows whether it knows the way
			continue
		}
		if kind != "" && said.Cause != nil {
			// What is true a little later, or of large packets alone; and where a router of the backend is asked.
			switch what := said.Cause.What; {
			case strings.Contains(what, "keeps this host from finding its neighbour"), said.Cause.Kind == report.KindMTU,
				sc.routed && said.Verdict == explain.Stopped && !r.answered,
				sc.afterwards && said.Verdict == explain.Stopped && !r.answered,
				strings.HasPrefix(kind, "the backend sees") && c.undiscovered(r):
				c.ends["differs, as it may: "+said.Cause.Kind]++
				continue
			}
		}
		if kind != "" {
			return &fault{kind, c.describe(cl, &said, r)}
		}
	}
	return nil
}

// undiscovered reports whether something drops the discovery of neighbours: whether they are known by then is
// a matter of time.
func (c *prediction) undiscovered(r result) bool {
	for _, st := range c.stays(r.events) {
		last := st.events[len(st.events)-1]
		dropped := last.kind == tracePolicy && last.policy == 0 || last.kind == traceRule && last.verdict == 0
		if n := st.first.network; dropped && len(n) >= 40 && n[0]>>4 == 6 && n[6] == unix.IPPROTO_ICMPV6 {
			return true
		}
	}
	return false
}

// ask asks explain. Meanwhile the backends answer what it asks them.
func (c *prediction) ask(x *explain.Explainer, q explain.Query) (said explain.Report, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		said, err = x.Explain(context.Background(), q)
	}()
	for pause := 20 * time.Microsecond; ; pause = min(2*pause, time.Millisecond) {
		select {
		case <-done:
			return said, err
		case <-time.After(pause):
			for _, b := range c.backends {
				c.answer(b)
			}
		}
	}
}

// differ says in what a report is not what happened.
func (c *prediction) differ(sc *scenario, cl client, said *explain.Report, r result) string {
	switch said.Verdict {
	case explain.Uncertain:
		k := "uncertain"
		if !sc.unknowable {
			k = "uncertain without a reason"
			if said.Cause != nil {
				k += ": " + said.Cause.Kind + ": " + said.Cause.What
			}
		}
		c.ends[k]++
		return ""
	case explain.Passes:
		if !r.answered {
			asked := !slices.ContainsFunc(said.Steps, func(s explain.Step) bool { return strings.Contains(s.Text, "was not asked") })
			if !asked && len(r.seen) > 0 && (cl.mapping.Backend.Port() == silentPort || sc.afterwards) {
				c.ends["passes to a backend that was not asked"]++
				return ""
			}
			return "said to pass, and is not answered"
		}
		if !c.sees(cl, said, r) {
			return "another source"
		}
		c.ends["passes"]++
		return ""
	case explain.NotPublished:
		if found, _ := published0(c.mappings).Find(context.Background(), cl.mapping.Proto, cl.frontend); len(found) != 0 || r.answered || len(r.seen) != 0 {
			return "said not to be published"
		}
		c.ends["not published"]++
		return ""
	case explain.Stopped:
		if r.answered && said.Cause != nil && said.Cause.Kind != report.KindRival {
			return "said to be stopped, and is answered"
		}
		if said.Cause == nil {
			return "no cause"
		}
		k := "stopped: " + said.Cause.Kind
		if said.Cause.Answer {
			k = "answer stopped: " + said.Cause.Kind
		}
		if slices.ContainsFunc(said.Others, func(o explain.Cause) bool { return !o.Certain && o.Kind != report.KindUnread }) {
			c.ends["stopped, perhaps by another thing already"]++
			return ""
		}
		if !c.sees(cl, said, r) {
			return "the backend sees something else: " + said.Cause.Kind
		}
		if why := c.cause(sc, cl, said, r); why != "" {
			return why
		}
		c.ends[k]++
		return ""
	}
	return "a verdict " + said.Verdict.String()
}

// sees compares the source that the backend sees.
func (c *prediction) sees(cl client, said *explain.Report, r result) bool {
	backend := netip.AddrPortFrom(cl.mapping.Backend.Addr(), cl.backendPort())
	for _, p := range r.seen {
		if p.dst == backend {
			return p.src.Addr() == said.Source
		}
	}
	return !said.Source.IsValid()
}

// cause compares the rule or policy that is said to drop with the one that did, if nftrace shows one.
func (c *prediction) cause(sc *scenario, cl client, said *explain.Report, r result) string {
	k, thing := said.Cause.Kind, said.Cause.Thing
	switch {
	case sc.unknowable || k == report.KindAddress || k == report.KindRival || k == report.KindTable || strings.Contains(thing, "legacy"):
		return ""
	case k == report.KindBackend && cl.mapping.Backend.Port() == silentPort && len(r.seen) > 0:
		return "" // it refuses, and then something may drop that
	case strings.Contains(thing, "notrack"):
		return "" // it does not drop
	}
	drops := c.drops(r, cl)
	if len(drops) == 0 {
		if neighbours := strings.Contains(said.Cause.What, "neighbour") || strings.Contains(said.Cause.What, "ARP"); !neighbours && (k == report.KindRule || k == report.KindPolicy) {
			return "said that a rule stops it, and none does"
		}
		return ""
	}
	if _, ok := c.packet(&stay{first: drops[len(drops)-1]}); !ok && strings.Contains(said.Cause.What, "ARP") {
		return "" // nftrace does not show what the host sends of it
	}
	for _, d := range drops {
		switch {
		case d.kind == tracePolicy && k == report.KindPolicy && strings.Contains(thing, d.table) && strings.Contains(thing, d.chain),
			d.kind == traceRule && k == report.KindRule && strings.Contains(thing, c.comment(d)):
			return ""
		}
	}
	return "another thing than what drops it"
}

// drops are the events that drop something, up to the first packet of the client or answer to it that is
// dropped. Before that there may be the discovery of neighbours; ICMP errors of the host do not count.
func (c *prediction) drops(r result, cl client) (all []event) {
	for _, st := range c.stays(r.events) {
		last := st.events[len(st.events)-1]
		if (last.kind != tracePolicy || last.policy != 0) && (last.kind != traceRule || last.verdict != 0) {
			continue
		}
		if p, ok := c.packet(st); ok && p.Src.Is4() == cl.addr.Is4() {
			last.network, last.transport = st.first.network, st.first.transport
			return append(all, last)
		}
		n := st.first.network
		if st.first.iif == 0 && len(n) >= 20 && n[0]>>4 == 4 && n[9] == unix.IPPROTO_ICMP {
			continue
		}
		all = append(all, last)
	}
	return all
}

func (c *prediction) describe(cl client, said *explain.Report, r result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\nsaid: %s, source %s, path %q\n", cl, r, said.Verdict, said.Source, said.Path)
	if said.Cause != nil {
		fmt.Fprintf(&b, "  cause: %+v\n", *said.Cause)
	}
	for _, o := range said.Others {
		fmt.Fprintf(&b, "  other: %+v\n", o)
	}
	for _, n := range said.Notes {
		fmt.Fprintf(&b, "  note: %s\n", n)
	}
	for _, st := range said.Steps {
		fmt.Fprintf(&b, "  step: %s: %s %t\n", st.Where, st.Text, st.Answer)
	}
	b.WriteString("met:\n")
	for _, e := range r.events {
		if e.table != tracerTable {
			fmt.Fprintf(&b, "  %s %s\n", e, c.comment(e))
		}
	}
	return b.String()
}
