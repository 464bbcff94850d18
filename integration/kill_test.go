// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// kept was published before each change, and must still be there afterwards.
func kept() []string {
	return []string{
		"7000->172.30.0.2:80", "192.0.2.1:53->172.30.0.2:53/udp",
		"[2001:db8:1::1]:7001->[fd00:30::2]:80", "[::]:7002->[fd00:30::3]:80/udp",
		"192.0.2.1:7003->[fd00:30::2]:80", "[::]:7004->172.30.0.3:80/udp",
	}
}

// mappingKillCase is a change of mappings.
type mappingKillCase struct {
	killCase
	before, after []string // what is published
}

func mappingKillCases() []mappingKillCase {
	with := func(more ...string) []string { return append(kept(), more...) }
	publishAll := func(texts ...string) func(*engine.Engine) error {
		return func(e *engine.Engine) error {
			_, err := e.Publish(context.Background(), nat.PublishOptions{}, parsed(texts)...)
			return err
		}
	}
	all := append(slices.Clone(stepsUndone), stepsDone...)
	replace := func(texts ...string) func(*engine.Engine) error {
		return func(e *engine.Engine) error {
			_, err := e.Publish(context.Background(), nat.PublishOptions{Replace: true}, parsed(texts)...)
			return err
		}
	}
	ranged := slices.Concat(stepsUndone, stepsDone, stepsSettled)
	const ports, elsewhere = "9000-9002->172.30.0.3:9000-9002/udp", "9000-9002->172.30.0.2:9000-9002/udp"
	const low, middle, high = "9000->172.30.0.3:9000/udp", "9001->172.30.0.2:80/udp", "9002->172.30.0.3:9002/udp"
	return []mappingKillCase{
		{
			killCase: killCase{"replace a range", append([]string{"prepare"}, ranged...), replace(elsewhere)},
			before:   with(ports), after: with(elsewhere),
		},
		{
			killCase: killCase{"take out of a range", all, replace(middle)},
			before:   with(ports), after: with(low, middle, high),
		},
		{
			killCase: killCase{"all ports of a range that are single ones", all, replace(elsewhere)},
			before:   with(low, middle, high), after: with(elsewhere),
		},
		{
			killCase: killCase{"first", all, publishAll(kept()...)}, after: with(),
		},
		{
			killCase: killCase{"publish", all, publishAll("8000-8002->172.30.0.3:9000-9002", "192.0.2.9:53->172.30.0.3:53/udp", "0.0.0.0:7001->172.30.0.3:80")},
			before:   with(),
			after:    with("8000-8002->172.30.0.3:9000-9002", "192.0.2.9:53->172.30.0.3:53/udp", "0.0.0.0:7001->172.30.0.3:80"),
		},
		{
			killCase: killCase{"unpublish", all[1:], func(e *engine.Engine) error {
				_, err := e.Remove(context.Background(), nat.Removal{Mappings: parsed([]string{"8000-8001->172.30.0.3:9000-9001", "192.0.2.9:53->172.30.0.3:53/udp"})})
				return err
			}},
			before: with("8000-8002->172.30.0.3:9000-9002", "192.0.2.9:53->172.30.0.3:53/udp"),
			after:  with("8002->172.30.0.3:9002"),
		},
		{
			killCase: killCase{"replace", all, replace("8001-8003->172.30.0.2:9000-9002")},
			before:   with("8000-8002->172.30.0.3:9000-9002"),
			after:    with("8000->172.30.0.3:9000", "8001-8003->172.30.0.2:9000-9002"),
		},
		{
			killCase: killCase{"to the other family", all, replace("192.0.2.1:8000->[fd00:30::3]:9000", "[::]:8001->[fd00:30::3]:9000/udp")},
			before:   with("192.0.2.1:8000->172.30.0.3:9000", "[::]:8001->172.30.0.3:9000/udp"),
			after:    with("192.0.2.1:8000->[fd00:30::3]:9000", "[::]:8001->[fd00:30::3]:9000/udp"),
		},
		{
			killCase: killCase{"apply", all, func(e *engine.Engine) error {
				_, err := e.Apply(context.Background(), parsed(with("8000->172.30.0.3:9000", "8001->172.30.0.2:9001", "192.0.2.9:53->172.30.0.3:53/udp"))...)
				return err
			}},
			before: with("8000-8002->172.30.0.3:9000-9002"),
			after:  with("8000->172.30.0.3:9000", "8001->172.30.0.2:9001", "192.0.2.9:53->172.30.0.3:53/udp"),
		},
	}
}

// flowKillCases are changes of a mapping with a UDP flow.
func flowKillCases() []killCase {
	return []killCase{
		{name: "replace udp", do: func(e *engine.Engine) error {
			_, err := e.Publish(context.Background(), nat.PublishOptions{Replace: true}, parsed([]string{"8001->172.30.0.3:9001/udp"})...)
			return err
		}},
		{name: "unpublish udp", do: func(e *engine.Engine) error {
			_, err := e.Remove(context.Background(), nat.Removal{Mappings: parsed([]string{"8001->172.30.0.3:9001/udp"})})
			return err
		}},
	}
}

// parsed returns mappings. It panics because a child has no test to fail.
func parsed(texts []string) []nat.Mapping {
	ms := make([]nat.Mapping, len(texts))
	for i, text := range texts {
		m, err := nat.ParseMappingText(text)
		if err != nil {
			panic(err)
		}
		ms[i] = m
	}
	return ms
}

// If a process is killed at any step of any change, the next engine adopts the table: the
// change is wholly done or undone, what was acknowledged before is there, and the lock is
// free.
func TestKill(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	for _, backend := range []*lab.NS{top.Backend1, top.Backend2} {
		for _, port := range []int{53, 80, 9000, 9001, 9002} {
			for _, network := range []string{"tcp", "udp"} {
				labtest.Echo(t, backend, network, fmt.Sprintf("%s:%d", backend, port), fmt.Sprint(":", port))
			}
		}
	}
	for _, c := range labtest.Some(t, "changes killed at each step", 3, mappingKillCases()) {
		for _, step := range c.steps {
			t.Run(c.name+" killed at "+step, func(t *testing.T) { c.killAt(t, top, step) })
		}
	}
}

func (c mappingKillCase) killAt(t *testing.T, top *lab.Topology, step string) {
	t.Helper()
	require.NoError(t, open(t, top.Host, engine.Options{}).Purge(t.Context()))
	if len(c.before) > 0 {
		first := open(t, top.Host, engine.Options{})
		publish(t, first, c.before...)
		require.NoError(t, first.Close())
	}

	c.kill(t, top.Host, step, "")

	// No wait is needed: the lock has ended with its process.
	e := open(t, top.Host, engine.Options{})
	want := c.before
	done := slices.Contains(stepsDone, step) || slices.Contains(stepsSettled, step)
	if done {
		want = c.after
	}
	require.Equal(t, canonical(t, want), published(e))
	if len(want) > 0 {
		require.Equal(t, elementsOf(must(e.Mappings(t.Context())), segmentsOf(top, want)...), singleElements(sortedElements(t, top.Host)))
	}
	c.works(t, top, want)

	// The next engine can make the change, and the result is the same as without the kill.
	if !done {
		require.NoError(t, c.do(e))
	}
	require.Equal(t, canonical(t, c.after), published(e))
	require.Equal(t, elementsOf(must(e.Mappings(t.Context())), segmentsOf(top, c.after)...), singleElements(sortedElements(t, top.Host)))
	c.works(t, top, c.after)
}

// A change is not wholly done while UDP flows contradict it: a client that keeps its source
// port would stay at the old backend for ever.
func TestKillBeforeFlows(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	labtest.EchoUDP(t, top.Backend1, "one", ":9001")
	labtest.EchoUDP(t, top.Backend2, "two", ":9001")
	first := open(t, top.Host, engine.Options{})
	publish(t, first, "8001->172.30.0.2:9001/udp")
	require.NoError(t, first.Close())
	f := dialFlow(t, top.Client, "udp", "192.0.2.1:8001")
	require.Equal(t, "one", f.name(t))

	replace, remove := flowKillCases()[0], flowKillCases()[1]
	replace.kill(t, top.Host, "flows", "")
	e := open(t, top.Host, engine.Options{})
	require.Equal(t, "two", f.name(t))
	require.NoError(t, e.Close())

	// Until its flows have ended, the table has a note of what was unpublished.
	remove.kill(t, top.Host, "flows", "")
	require.Equal(t, "two", f.name(t), "the flow goes on")
	require.Contains(t, nft(t, top.Host, "list", "map", "inet", "nftnat", "udp4_ended"), "0.0.0.0 . 8001 : 172.30.0.3 . 9001")
	reader := open(t, top.Host, engine.Options{ReadOnly: true})
	require.Equal(t, "two", f.name(t), "reading ends nothing")
	require.NoError(t, reader.Close())
	e = open(t, top.Host, engine.Options{})
	require.Empty(t, sortedElements(t, top.Host))
	require.ErrorIs(t, f.refused(t), unix.ECONNREFUSED)
	require.NoError(t, e.Purge(t.Context()))
}

// works checks that what is published leads to its backends, and that the case's other
// mappings are refused.
func (c mappingKillCase) works(t *testing.T, top *lab.Topology, want []string) {
	t.Helper()
	there := map[nat.Mapping]bool{}
	for m := range singles(t, want) {
		there[m] = true
		if host := m.Frontend.Addr(); host.IsValid() && host.Is4() != m.Backend.Addr().Is4() {
			// It needs a proxy, and these engines have none.
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
	for m := range singles(t, append(slices.Clone(c.before), c.after...)) {
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

// clientAddr is the address to which a client connects for a mapping.
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

// canonical returns what published returns for these mappings.
func canonical(t *testing.T, want []string) []string {
	t.Helper()
	return texts(mappings(t, want...))
}

// segmentsOf returns the segments of the topology with backends of the mappings.
func segmentsOf(top *lab.Topology, texts []string) []string {
	var found []string
	for _, p := range []netip.Prefix{top.Inside4, top.Inside6} {
		if slices.ContainsFunc(parsed(texts), func(m nat.Mapping) bool { return p.Contains(m.Backend.Addr()) }) {
			found = append(found, p.String())
		}
	}
	return found
}
