// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/engine/internal/wayout"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// requireConsistent checks what holds between calls: the next engine would find what
// this one knows, and every port is reserved by who has it, and no other.
func requireConsistent(tb testing.TB, b *testbed, e *Engine) {
	tb.Helper()
	next, err := b.tryOpen(Options{ReadOnly: true, FirstPort: e.core.opts.FirstPort, LastPort: e.core.opts.LastPort})
	require.NoError(tb, err)
	have := must(e.Mappings(tb.Context()))
	require.Equal(tb, publishedBy(next), publishedBy(e), "what is in the kernel, and what is known")
	theirs, err := next.State(tb.Context())
	require.NoError(tb, err)
	ours, err := e.State(tb.Context())
	require.NoError(tb, err)
	require.Equal(tb, theirs, ours, "networks, endpoints and cursors")

	e.mu.Lock() // Run may be running
	defer e.mu.Unlock()
	require.Equal(tb, next.core.segments.Table(), e.core.segments.Table())
	require.Equal(tb, maps.Collect(next.core.backends.All), maps.Collect(e.core.backends.All))
	requireNotes(tb, b, e)
	require.Equal(tb, next.core.hairpins.Records(nil), e.core.hairpins.Records(nil))
	require.Empty(tb, misreserved(e, have))
	requireExits(tb, b, e)
	for _, p := range e.core.segments.Table() {
		for _, q := range e.core.segments.Table() {
			require.False(tb, p != q && p.Link == q.Link && p.Prefix.Overlaps(q.Prefix), "segments %s and %s overlap", p, q)
		}
	}
}

// requireExits checks that the maps of exits follow from what is published.
func requireExits(tb testing.TB, b *testbed, e *Engine) {
	tb.Helper()
	e.core.addDueExits()
	index := wayout.Of(e.core.mappings.All, e.core.ipam.Masquerades)
	require.Equal(tb, index, e.core.exits.index)
	var want, have []string
	for _, el := range schema.OutElements(index.Exits(e.core.exits.places), b.clock.Now()) {
		want = append(want, withoutTimeout(el.String()))
	}
	for _, el := range elementsIn(b.kernel.Dump()) {
		if set, _, _ := strings.Cut(el, " "); schema.IsOut(set) {
			have = append(have, withoutTimeout(el))
		}
	}
	require.ElementsMatch(tb, want, have)
}

func withoutTimeout(element string) string {
	return regexp.MustCompile(` timeout \S+`).ReplaceAllString(element, "")
}

// requireNotes checks that the table has the notes of what is published, and no others but
// those of what has expired.
func requireNotes(tb testing.TB, b *testbed, e *Engine) {
	tb.Helper()
	texts := func(es []nft.Element) (lines []string) {
		for _, el := range es {
			lines = append(lines, el.String())
		}
		return lines
	}
	want, over := texts(schema.Notes(e.core.mappings.Whole)), texts(schema.EndedElements(e.core.over))
	have := notesIn(b)
	require.Subset(tb, have, want)
	require.Subset(tb, append(want, over...), have)
}

// notesIn are the notes in the table.
func notesIn(b *testbed) (lines []string) {
	for _, el := range elementsIn(b.kernel.Dump()) {
		if strings.Contains(el, "_ended ") || strings.Contains(el, "_ended_range ") {
			lines = append(lines, el)
		}
	}
	return lines
}

// probes are frontends whose state tells that of all that the tests use: ports 100
// to 112, 80, and some that are published.
func probes(e *Engine) []portset.Frontend {
	ports := []uint16{80, 100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111, 112}
	for p := range e.core.mappings.All {
		if len(ports) < 20 && !slices.Contains(ports, p.AddrPort.Port()) {
			ports = append(ports, p.AddrPort.Port())
		}
	}
	hosts := []netip.Addr{{}, any4(), any6(), netip.MustParseAddr(local4), netip.MustParseAddr(local6), netip.MustParseAddr("127.0.0.1")}
	fs := make([]portset.Frontend, 0, 2*len(ports)*len(hosts))
	for _, port := range ports {
		for _, host := range hosts {
			ap := netip.AddrPortFrom(host, port)
			fs = append(fs, portset.Frontend{Proto: nat.TCP, AddrPort: ap}, portset.Frontend{Proto: nat.UDP, AddrPort: ap})
		}
	}
	return fs
}

// misreserved lists the frontends that the port allocators and the mappings disagree
// about.
func misreserved(e *Engine, ms []nat.Mapping) (wrong []string) {
	for _, f := range probes(e) {
		taken := slices.ContainsFunc(ms, func(m nat.Mapping) bool {
			return m.Proto == f.Proto && f.AddrPort.Port()-m.Frontend.Port() <= m.More && exclude(m.Frontend.Addr(), f.AddrPort.Addr())
		})
		err := e.core.reserved.Reserve(f)
		if err == nil {
			e.core.reserved.Release([]portset.Port{{Frontend: f}})
		}
		if taken != (err != nil) {
			wrong = append(wrong, fmt.Sprintf("%s taken: %t, but reserving it: %v", nat.DescribeFrontend(f.Mapping(portset.Target{})), taken, err))
		}
	}
	return wrong
}

// exclude reports whether two frontend addresses exclude each other on one port.
func exclude(a, b netip.Addr) bool {
	switch {
	case !a.IsValid() || !b.IsValid():
		return true
	case a.Is4() != b.Is4():
		return false
	}
	return a == b || a.IsUnspecified() || b.IsUnspecified()
}

// withoutTimeouts takes out of a dump how long elements live: that depends on when
// they were written.
func withoutTimeouts(dump string) string {
	return regexp.MustCompile(` timeout [0-9a-zµ.]+`).ReplaceAllString(dump, " timeout")
}

// withoutNotes takes notes out of a dump: those of what has expired stay for a moment.
func withoutNotes(dump string) string {
	var kept strings.Builder
	for line := range strings.Lines(dump) {
		if !strings.HasPrefix(line, "add element ") || !strings.Contains(line, "_ended ") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

func inAllWords(ms []nat.Mapping) []string {
	lines := make([]string, len(ms))
	for i, m := range ms {
		lines[i] = inWords(m)
	}
	return lines
}

// mapElementsIn are the elements of maps in a dump, as text, in order.
func mapElementsIn(dump string) []string {
	var lines []string // without notes
	for _, e := range elementsIn(withoutTimeouts(dump)) {
		if !strings.HasPrefix(e, "inside") && !strings.HasPrefix(e, "segments") && !strings.Contains(e, "_ended ") && !isOptionLine(e) {
			lines = append(lines, e)
		}
	}
	slices.Sort(lines)
	return lines
}

func isAt(at elementKey) func(nft.Element) bool {
	return func(e nft.Element) bool { return e.Set == at.set && e.Key.AddrPort() == at.key }
}

func compareKeys(a, b elementKey) int {
	return cmp.Or(strings.Compare(a.set, b.set), a.key.Compare(b.key))
}
