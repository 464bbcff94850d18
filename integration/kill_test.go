// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// operation is a change that a child is killed in the middle of.
type operation struct {
	name          string
	before, after []string // what is published
	steps         []string
	do            func(e *engine.Engine) error // what leads from one to the other
}

// The steps of a change, in order. The transaction comes at "commit": a process that
// is killed before has done nothing, and one that is killed later has done all that
// the table can tell of.
var (
	stepsUndone = []string{"reserve", "forward", "commit"}
	stepsDone   = []string{"flows", "done"}
)

// kept is what was acknowledged long before, and must be there whatever happens.
func kept() []string {
	return []string{
		"7000->172.30.0.2:80", "192.0.2.1:53->172.30.0.2:53/udp",
		"[2001:db8:1::1]:7001->[fd00:30::2]:80", "[::]:7002->[fd00:30::3]:80/udp",
		"192.0.2.1:7003->[fd00:30::2]:80", "[::]:7004->172.30.0.3:80/udp",
	}
}

func operations() []operation {
	with := func(more ...string) []string { return append(kept(), more...) }
	publishAll := func(texts ...string) func(*engine.Engine) error {
		return func(e *engine.Engine) error {
			_, err := e.Publish(parsed(texts)...)
			return err
		}
	}
	all := append(slices.Clone(stepsUndone), stepsDone...)
	return []operation{
		{
			name: "first", after: with(), steps: all, do: publishAll(kept()...),
		},
		{
			name: "publish", before: with(), steps: all,
			after: with("8000-8002->172.30.0.3:9000-9002", "192.0.2.9:53->172.30.0.3:53/udp", "0.0.0.0:7001->172.30.0.3:80"),
			do:    publishAll("8000-8002->172.30.0.3:9000-9002", "192.0.2.9:53->172.30.0.3:53/udp", "0.0.0.0:7001->172.30.0.3:80"),
		},
		{
			name: "unpublish", after: with("8002->172.30.0.3:9002"),
			before: with("8000-8002->172.30.0.3:9000-9002", "192.0.2.9:53->172.30.0.3:53/udp"),
			steps:  []string{"forward", "commit", "flows", "done"},
			do: func(e *engine.Engine) error {
				_, err := e.Unpublish(parsed([]string{"8000-8001->172.30.0.3:9000-9001", "192.0.2.9:53->172.30.0.3:53/udp"})...)
				return err
			},
		},
		{
			name: "retarget", before: with("8000-8002->172.30.0.3:9000-9002"), steps: all,
			after: with("8000->172.30.0.3:9000", "8001-8003->172.30.0.2:9000-9002"),
			do: func(e *engine.Engine) error {
				_, err := e.Retarget(parsed([]string{"8001-8003->172.30.0.2:9000-9002"})...)
				return err
			},
		},
		{
			name: "to the other family", before: with("192.0.2.1:8000->172.30.0.3:9000", "[::]:8001->172.30.0.3:9000/udp"), steps: all,
			after: with("192.0.2.1:8000->[fd00:30::3]:9000", "[::]:8001->[fd00:30::3]:9000/udp"),
			do: func(e *engine.Engine) error {
				_, err := e.Retarget(parsed([]string{"192.0.2.1:8000->[fd00:30::3]:9000", "[::]:8001->[fd00:30::3]:9000/udp"})...)
				return err
			},
		},
		{
			name: "apply", before: with("8000-8002->172.30.0.3:9000-9002"), steps: all,
			after: with("8000->172.30.0.3:9000", "8001->172.30.0.2:9001", "192.0.2.9:53->172.30.0.3:53/udp"),
			do: func(e *engine.Engine) error {
				_, err := e.Apply(parsed(with("8000->172.30.0.3:9000", "8001->172.30.0.2:9001", "192.0.2.9:53->172.30.0.3:53/udp"))...)
				return err
			},
		},
	}
}

// parsed is mappings where there is no test to fail.
func parsed(texts []string) []nat.Mapping {
	ms := make([]nat.Mapping, len(texts))
	for i, text := range texts {
		m, err := nat.ParseMapping(text)
		if err != nil {
			panic(err)
		}
		ms[i] = m
	}
	return ms
}

// A process that is killed at any step of any change leaves a table that the next
// engine takes over: with the change wholly done or wholly undone, with everything
// that was acknowledged before, and with the lock free.
func TestKill(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	for _, backend := range []*lab.NS{top.Backend1, top.Backend2} {
		for _, port := range []int{53, 80, 9000, 9001, 9002} {
			for _, network := range []string{"tcp", "udp"} {
				labtest.Echo(t, backend, network, fmt.Sprintf("%s:%d", backend, port), fmt.Sprint(":", port))
			}
		}
	}
	for _, op := range labtest.Some(t, "operations killed at each step", 2, operations()) {
		for _, step := range op.steps {
			t.Run(op.name+" killed at "+step, func(t *testing.T) { op.killAt(t, top, step) })
		}
	}
}

func (op operation) killAt(t *testing.T, top *lab.Topology, step string) {
	t.Helper()
	require.NoError(t, open(t, top.Host, engine.Options{}).Purge())
	if len(op.before) > 0 {
		first := open(t, top.Host, engine.Options{})
		publish(t, first, op.before...)
		require.NoError(t, first.Close())
	}

	r := labtest.Run(t, top.Host, child(t, "kill", top.Host.Path(), op.name, step))
	require.Equal(t, -1, r.Code, "the child was not killed: %s", r.Stderr)

	// Without waiting: the lock has ended with its process.
	e := open(t, top.Host, engine.Options{})
	want := op.before
	if slices.Contains(stepsDone, step) {
		want = op.after
	}
	require.Equal(t, canonical(t, want), published(e))
	if len(want) > 0 {
		require.Equal(t, elementsOf(e.Mappings(), segmentsOf(top, want)...), sortedElements(t, top.Host))
	}
	op.works(t, top, want)

	// The next engine can do the same, or what is left to do, and it is the same as
	// if nobody had been killed.
	if !slices.Contains(stepsDone, step) {
		require.NoError(t, op.do(e))
	}
	require.Equal(t, canonical(t, op.after), published(e))
	require.Equal(t, elementsOf(e.Mappings(), segmentsOf(top, op.after)...), sortedElements(t, top.Host))
	op.works(t, top, op.after)
}

// A change is not wholly done while flows over UDP contradict it: a client that keeps
// its source port would go on for ever as it did before.
func TestKillBeforeFlows(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	labtest.EchoUDP(t, top.Backend1, "one", ":9001")
	labtest.EchoUDP(t, top.Backend2, "two", ":9001")
	first := open(t, top.Host, engine.Options{})
	publish(t, first, "8001->172.30.0.2:9001/udp")
	require.NoError(t, first.Close())
	f := dialFlow(t, top.Client, "udp", "192.0.2.1:8001")
	require.Equal(t, "one", f.name(t))

	r := labtest.Run(t, top.Host, child(t, "kill", top.Host.Path(), "udp-retarget", "flows"))
	require.Equal(t, -1, r.Code, r.Stderr)
	e := open(t, top.Host, engine.Options{})
	require.Equal(t, "two", f.name(t))
	require.NoError(t, e.Close())

	// What was unpublished is noted in the table until its flows have ended.
	r = labtest.Run(t, top.Host, child(t, "kill", top.Host.Path(), "udp-unpublish", "flows"))
	require.Equal(t, -1, r.Code, r.Stderr)
	require.Equal(t, "two", f.name(t), "the flow goes on")
	require.Contains(t, nft(t, top.Host, "list", "map", "inet", "nftnat", "udp4_ended"), "0.0.0.0 . 8001 : 172.30.0.3 . 9001")
	reader := open(t, top.Host, engine.Options{ReadOnly: true})
	require.Equal(t, "two", f.name(t), "reading ends nothing")
	require.NoError(t, reader.Close())
	e = open(t, top.Host, engine.Options{})
	require.Empty(t, sortedElements(t, top.Host))
	require.ErrorIs(t, f.refused(t), unix.ECONNREFUSED)
	require.NoError(t, e.Purge())
}

// works sees to it that what is published leads to its backends, and that what was or
// will be is refused.
func (op operation) works(t *testing.T, top *lab.Topology, want []string) {
	t.Helper()
	there := map[nat.Mapping]bool{}
	for m := range singles(t, want) {
		there[m] = true
		if host := m.Frontend.Addr(); host.IsValid() && host.Is4() != m.Backend.Addr().Is4() {
			// It waits for a proxy, and these engines have none.
			require.ErrorIs(t, labtest.NoAnswer(t, top.Client, m.Proto.String(), clientAddr(top, m)), unix.ECONNREFUSED)
			continue
		}
		backend := top.Backend1
		if a := m.Backend.Addr(); a == top.Backend2.V4 || a == top.Backend2.V6 {
			backend = top.Backend2
		}
		peer := labtest.Reaches(t, top.Client, m.Proto.String(), clientAddr(top, m), fmt.Sprintf("%s:%d", backend, m.Backend.Port()))
		require.Contains(t, []netip.Addr{top.Client.V4, top.Client.V6}, peer.Addr())
	}
	frontends := map[string]bool{}
	for m := range there {
		frontends[m.Proto.String()+clientAddr(top, m)] = true
	}
	for m := range singles(t, append(slices.Clone(op.before), op.after...)) {
		if !frontends[m.Proto.String()+clientAddr(top, m)] {
			require.ErrorIs(t, labtest.NoAnswer(t, top.Client, m.Proto.String(), clientAddr(top, m)), unix.ECONNREFUSED)
		}
	}
}

// singles yields the mappings of single ports.
func singles(t *testing.T, texts []string) func(func(nat.Mapping) bool) {
	t.Helper()
	return func(yield func(nat.Mapping) bool) {
		for _, m := range mappings(t, texts...) {
			for one := range nat.Expand(m) {
				if !yield(one) {
					return
				}
			}
		}
	}
}

// clientAddr is where a client asks for what is published.
func clientAddr(top *lab.Topology, m nat.Mapping) string {
	host := m.Frontend.Addr()
	if !host.IsValid() || host.IsUnspecified() {
		host = top.Host.V4
		if m.Backend.Addr().Is6() {
			host = top.Host.V6
		}
	}
	return netip.AddrPortFrom(host, m.Frontend.Port()).String()
}

// canonical is what published returns if these are published.
func canonical(t *testing.T, want []string) []string {
	t.Helper()
	return texts(slices.Values(mappings(t, want...)))
}

// segmentsOf are the segments of the topology that backends of the mappings lie on.
func segmentsOf(top *lab.Topology, texts []string) []string {
	var found []string
	for _, p := range []netip.Prefix{top.Inside4, top.Inside6} {
		if slices.ContainsFunc(parsed(texts), func(m nat.Mapping) bool { return p.Contains(m.Backend.Addr()) }) {
			found = append(found, p.String())
		}
	}
	return found
}

// childKill makes a change and kills itself just before a step of it.
func childKill(name, step string) error {
	ops := append(operations(), operation{name: "udp-retarget", do: func(e *engine.Engine) error {
		_, err := e.Retarget(parsed([]string{"8001->172.30.0.3:9001/udp"})...)
		return err
	}}, operation{name: "udp-unpublish", do: func(e *engine.Engine) error {
		_, err := e.Unpublish(parsed([]string{"8001->172.30.0.3:9001/udp"})...)
		return err
	}}, operation{name: "hairpin", do: func(e *engine.Engine) error {
		_, err := e.Publish(parsed([]string{"8080->172.30.0.2:80"})...)
		return err
	}}, operation{name: "hairpin-end", do: func(e *engine.Engine) error {
		_, err := e.Unpublish(parsed([]string{"8080->172.30.0.2:80"})...)
		return err
	}})
	i := slices.IndexFunc(ops, func(op operation) bool { return op.name == name })
	if i < 0 {
		return fmt.Errorf("there is no operation %q", name)
	}
	e, err := engine.Open(engine.Options{
		NetNS: os.Getenv(envChildNetNS), NoProxies: true, NoOwner: true,
		Trace: func(s string) {
			if s == step {
				killSelf()
			}
		},
	})
	if err != nil {
		return err
	}
	if err := ops[i].do(e); err != nil {
		return err
	}
	return fmt.Errorf("step %q never came", step)
}

// killSelf does not return: nothing is run any more, neither deferred functions nor
// other goroutines.
func killSelf() {
	if err := unix.Kill(os.Getpid(), unix.SIGKILL); err != nil {
		panic(err)
	}
	select {}
}
