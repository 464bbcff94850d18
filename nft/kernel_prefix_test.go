// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// The tests of this file ask a real kernel for sets of prefixes, addresses and names.

// networks are prefixes of one set with their comments, in the order given.
func networks(set string, prefixes ...string) []Element {
	var es []Element
	for _, p := range prefixes {
		es = append(es, Element{Set: set, Key: PrefixKey(netip.MustParsePrefix(p)), Comment: p})
	}
	return es
}

// universe are prefixes that do not overlap: side by side, scattered, of one address,
// the lowest and the highest.
func universe(r *rand.Rand, d DataType, n int) []netip.Prefix {
	var ps []netip.Prefix
	first, bits := netip.MustParseAddr("10.0.0.0"), 24
	if d == IPv6Addr {
		first, bits = netip.MustParseAddr("2001:db8::"), 64
	}
	for p := netip.PrefixFrom(first, bits); len(ps) < n/2; p = netip.PrefixFrom(endAddr(p), bits) {
		ps = append(ps, p)
	}
	lowest := netip.PrefixFrom(first, 0).Masked().Addr()
	highest := lastAddr(netip.PrefixFrom(first, 0))
	ps = append(ps, netip.PrefixFrom(lowest, bits), netip.PrefixFrom(highest, bits).Masked())
	for len(ps) < n {
		a := addrOf(r, d)
		p := netip.PrefixFrom(a, a.BitLen()-r.IntN(a.BitLen()-bits+1)).Masked()
		if !slices.ContainsFunc(ps, p.Overlaps) {
			ps = append(ps, p)
		}
	}
	r.Shuffle(len(ps), func(i, j int) { ps[i], ps[j] = ps[j], ps[i] })
	return ps
}

// listed is what nft(8) lists of the set: its elements as keys, with their comments.
func listed(t *testing.T, ns *lab.NS, set string) map[string]string {
	t.Helper()
	var out struct {
		Nftables []struct {
			Set *struct{ Elem []json.RawMessage }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(labtest.Exec(t, ns, "nft", "-j", "list", "set", "inet", "nftnat", set)), &out))
	all := map[string]string{}
	for _, object := range out.Nftables {
		if object.Set == nil {
			continue
		}
		for _, raw := range object.Set.Elem {
			key, comment := listedElement(t, raw)
			require.NotContains(t, all, key)
			all[key] = comment
		}
	}
	return all
}

func listedElement(t *testing.T, raw json.RawMessage) (key, comment string) {
	t.Helper()
	if json.Unmarshal(raw, &key) == nil {
		return key, ""
	}
	var e struct {
		Elem *struct {
			Val     json.RawMessage
			Comment string
		}
		Prefix *struct {
			Addr string
			Len  int
		}
	}
	require.NoError(t, json.Unmarshal(raw, &e))
	if e.Elem != nil {
		key, _ = listedElement(t, e.Elem.Val)
		return key, e.Elem.Comment
	}
	require.NotNil(t, e.Prefix, "%s", raw)
	return fmt.Sprintf("%s/%d", e.Prefix.Addr, e.Prefix.Len), ""
}

// model is a set of prefixes as it should be, with a kernel that is asked to follow.
type model struct {
	t    *testing.T
	r    *rand.Rand
	c    *Conn
	ns   *lab.NS
	set  string
	free []netip.Prefix
	have map[netip.Prefix]string // with their comments
}

// change adds and deletes some at once, and gives others a new comment.
func (m *model) change(added, deleted, renamed int) {
	m.t.Helper()
	var ch Change
	element := func(p netip.Prefix) Element { return Element{Set: m.set, Key: PrefixKey(p), Comment: m.have[p]} }
	rename := func(p netip.Prefix) {
		m.have[p] = fmt.Sprintf("%s %d", p, m.r.Uint32())
		ch.Add = append(ch.Add, element(p))
	}
	var freed []netip.Prefix
	for p := range m.have {
		switch {
		case deleted > 0:
			deleted--
			freed = append(freed, p)
			ch.Delete = append(ch.Delete, element(p))
		case renamed > 0:
			renamed--
			ch.Delete = append(ch.Delete, element(p))
			rename(p)
		}
	}
	for range min(added, len(m.free)) {
		p := m.free[0]
		m.free = m.free[1:]
		rename(p)
	}
	for _, p := range freed {
		delete(m.have, p)
	}
	m.free = append(m.free, freed...)
	m.r.Shuffle(len(ch.Add), func(i, j int) { ch.Add[i], ch.Add[j] = ch.Add[j], ch.Add[i] })
	require.NoError(m.t, m.c.Update(sample(), ch))
	m.compare()
}

func (m *model) compare() {
	m.t.Helper()
	got, _, err := m.c.Elements(sample(), m.set)
	require.NoError(m.t, err)
	read := map[netip.Prefix]string{}
	for _, e := range got {
		p, ok := e.Key.Prefix()
		require.True(m.t, ok, e)
		_, twice := read[p]
		require.False(m.t, twice, p)
		read[p] = e.Comment
	}
	require.Equal(m.t, m.have, read)
	byName := map[string]string{}
	for p, comment := range m.have {
		byName[PrefixKey(p).String()] = comment
	}
	require.Equal(m.t, byName, listed(m.t, m.ns, m.set))
}

// TestPrefixesAgainstModel adds, deletes and renames a thousand prefixes at random, in
// large and small transactions, and compares with what is read and with nft(8).
func TestPrefixesAgainstModel(t *testing.T) {
	for set, d := range map[string]DataType{"networks4": IPv4Addr, "networks6": IPv6Addr, "away4": IPv4Addr} {
		t.Run(set, func(t *testing.T) {
			c, ns := kernel(t)
			r := newRand(t)
			require.NoError(t, c.Replace(sample(), nil, 0))
			m := &model{t: t, r: r, c: c, ns: ns, set: set, free: universe(r, d, 1000), have: map[netip.Prefix]string{}}
			all := len(m.free)
			m.change(all, 0, 0) // in one transaction
			m.change(0, all/2, all/4)
			for range 10 {
				m.change(r.IntN(200), r.IntN(200), r.IntN(100))
			}
			for range 2 {
				m.change(1, 0, 0)
				m.change(0, 1, 0)
				m.change(0, 0, 1)
			}
			m.change(0, 0, len(m.have)) // all at once
			// What nft(8) saves and loads can be changed as before.
			labtest.ExecInput(t, ns, "flush ruleset\n"+labtest.Exec(t, ns, "nft", "list", "ruleset"), "nft", "-f", "-")
			m.compare()
			drift, err := c.Drift(sample())
			require.NoError(t, err)
			require.Empty(t, drift)
			m.change(all, 0, 10)
			m.change(0, 100, 0)
			m.change(all, len(m.have), 0) // others in their place
			m.change(0, len(m.have), 0)
		})
	}
}

// TestNeighbours: a prefix shares its bounds with those beside it, which stay whole.
func TestNeighbours(t *testing.T) {
	c, _ := kernel(t)
	beside := networks("networks4", "0.0.0.0/8", "1.0.0.0/8", "2.0.0.0/7", "128.0.0.0/2", "192.0.0.0/3", "224.0.0.0/3")
	read := func() []string {
		got, _, err := c.Elements(sample(), "networks4")
		require.NoError(t, err)
		return sorted(got)
	}
	for i := range beside {
		require.NoError(t, c.Replace(sample(), beside, 0))
		require.Equal(t, sorted(beside), read())
		without := slices.Delete(slices.Clone(beside), i, i+1)
		require.NoError(t, c.Update(sample(), Change{Delete: beside[i : i+1]}))
		require.Equal(t, sorted(without), read())
		err := c.Update(sample(), Change{Delete: beside[i : i+1]})
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.EqualError(t, err, fmt.Sprintf("delete element networks4 { %s }: no such file or directory", beside[i].Key))
		require.NoError(t, c.Update(sample(), Change{Add: beside[i : i+1]}))
		renamed := slices.Clone(beside)
		renamed[i].Comment = "another"
		require.NoError(t, c.Update(sample(), Change{Delete: beside[i : i+1], Add: renamed[i : i+1]}))
		require.Equal(t, sorted(renamed), read())
		require.ErrorIs(t, c.Update(sample(), Change{Add: beside[i : i+1]}), fs.ErrExist)
		require.Equal(t, sorted(renamed), read())
	}
}

// TestOverlappingPrefixes pins what the kernel answers. Callers that keep prefixes
// depend on it.
func TestOverlappingPrefixes(t *testing.T) {
	c, _ := kernel(t)
	read := func() []string {
		got, _, err := c.Elements(sample(), "networks4")
		require.NoError(t, err)
		return sorted(got)
	}
	there := networks("networks4", "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "224.0.0.0/3")
	require.NoError(t, c.Replace(sample(), there, 0))
	for _, p := range []string{
		"10.1.0.0/16", "10.1.0.0/17", "10.1.128.0/17", "10.1.1.0/24", "10.0.0.0/15", "10.2.0.0/15", "10.0.0.0/8",
		"224.0.0.0/3", "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32",
	} {
		err := c.Update(sample(), Change{Add: networks("networks4", p)})
		require.ErrorIs(t, err, unix.EEXIST, p)
		require.ErrorContains(t, err, networks("networks4", p)[0].String())
		require.Equal(t, sorted(there), read())
	}
	for _, p := range []string{"10.1.0.0/17", "10.1.128.0/17", "10.0.0.0/15", "224.0.0.0/4", "240.0.0.0/4", "0.0.0.0/0"} {
		err := c.Update(sample(), Change{Delete: networks("networks4", p)})
		require.ErrorIs(t, err, unix.ENOENT, p)
		require.Equal(t, sorted(there), read())
	}
	// One that begins as one and ends as another. Older kernels take it.
	if err := c.Update(sample(), Change{Delete: networks("networks4", "10.2.0.0/15")}); err != nil {
		require.ErrorIs(t, err, unix.ENOENT)
		require.Equal(t, sorted(there), read())
	} else {
		require.Contains(t, read(), "networks4 { the range up to 10.3.0.0 has no beginning }")
	}

	// One around others passes if it reaches to the highest address, and is then none.
	require.NoError(t, c.Replace(sample(), there, 0))
	all := networks("networks4", "0.0.0.0/0")
	require.NoError(t, c.Update(sample(), Change{Add: all}))
	require.Equal(t, sorted(append(slices.Clone(there),
		Element{Set: "networks4", Foreign: "the range from 0.0.0.0 has no end before that from 10.1.0.0"})), read())
	require.NoError(t, c.Update(sample(), Change{Delete: all}))
	require.Equal(t, sorted(there), read())
	// Deleting one that is not there passes if it reaches to the highest address, and
	// another begins alike.
	low := networks("networks4", "0.0.0.0/8")
	require.NoError(t, c.Update(sample(), Change{Add: low}))
	require.NoError(t, c.Update(sample(), Change{Delete: all}))
	require.Equal(t, sorted(append(slices.Clone(there),
		Element{Set: "networks4", Foreign: "the range up to 1.0.0.0 has no beginning"})), read())
}

// TestPrefixesEnd: of those that have ended the kernel still lists the ends, and there
// is room for others in their place.
func TestPrefixesEnd(t *testing.T) {
	c, _ := kernel(t)
	es := networks("away4", "10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24", "240.0.0.0/4")
	for i := range es {
		es[i].Timeout = 100 * time.Millisecond
	}
	es[1].Timeout, es[3].Timeout = 0, time.Hour
	require.NoError(t, c.Replace(sample(), es, 0))
	for end := time.Now().Add(10 * time.Second); ; {
		got, _, err := c.Elements(sample(), "away4")
		require.NoError(t, err)
		for _, e := range got {
			require.Empty(t, e.Foreign)
		}
		if len(got) == 2 {
			requireSame(t, []Element{es[1], es[3]}, got)
			break
		}
		require.True(t, time.Now().Before(end), got)
	}
	others := networks("away4", "10.0.0.0/25", "10.0.2.0/25", "10.0.2.128/25", "224.0.0.0/3")
	require.NoError(t, c.Update(sample(), Change{Add: others}))
	got, _, err := c.Elements(sample(), "away4")
	require.NoError(t, err)
	requireSame(t, append(others, es[1], es[3]), got)
}

// TestInterfaceNames: nft(8) lists the names of interfaces, and loads what it listed.
func TestInterfaceNames(t *testing.T) {
	c, ns := kernel(t)
	r := newRand(t)
	seen := map[string]bool{}
	var es []Element
	for i := range 256 {
		for _, name := range []string{string([]byte{byte(i)}), "a" + string([]byte{byte(i)}) + "b", randomInterface(r)} {
			if interfaceName(name) && !seen[name] {
				seen[name] = true
				es = append(es, Element{Set: "links", Key: InterfaceKey(name), Comment: fmt.Sprint(len(es))})
			}
		}
	}
	require.NoError(t, c.Replace(sample(), es, 0))
	text := list(t, ns, "nftnat")
	for _, e := range es {
		require.Contains(t, text, fmt.Sprintf("%s comment %q", e.Key, e.Comment))
	}
	labtest.ExecInput(t, ns, "flush ruleset\n"+text, "nft", "-f", "-")
	got, _, err := c.Elements(sample(), "links")
	require.NoError(t, err)
	require.Equal(t, sorted(es), sorted(got))
	require.NoError(t, c.Update(sample(), Change{Delete: got}))
	// A name matches as a whole.
	require.NoError(t, c.Update(sample(), Change{Add: []Element{{Set: "links", Key: InterfaceKey("veth0")}}}))
	require.ErrorIs(t, c.Update(sample(), Change{Delete: []Element{{Set: "links", Key: InterfaceKey("veth")}}}), unix.ENOENT)
}
