// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nfttest

import (
	"errors"
	"io/fs"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/nft"
)

func sample() nft.Table {
	port, v4 := nft.Type{nft.InetService}, nft.Type{nft.IPv4Addr, nft.InetService}
	return nft.Table{
		Name: "nftnat", Comment: "sample",
		Sets: []nft.Set{
			{Name: "tcp4", Key: port, Value: v4, Timeout: true, Size: 5},
			{Name: "tcp4_host", Key: v4, Value: v4, Timeout: true, Size: 2},
			{Name: "udp4", Key: port, Value: v4},
			{Name: "inside4", Key: nft.Type{nft.IPv4Addr, nft.IPv4Addr}, Interval: true},
			{Name: "networks4", Key: nft.Type{nft.IPv4Addr}, Interval: true},
			{Name: "hosts4", Key: v4},
			{Name: "leases4", Key: nft.Type{nft.IPv4Addr}, Timeout: true},
			{Name: "links", Key: nft.Type{nft.IfName}},
			{Name: "segments4", Key: nft.Type{nft.IfName, nft.IfName, nft.IPv4Addr}, Interval: true},
			{Name: "away4", Key: nft.Type{nft.IPv4Addr}, Interval: true, Timeout: true},
			{Name: "tcp4_range", Key: nft.Type{nft.InetService}, Value: nft.Type{nft.IPv4Addr}, Interval: true, Timeout: true},
			{Name: "tcp4_host_range", Key: nft.Type{nft.InetService, nft.IPv4Addr}, Value: nft.Type{nft.IPv4Addr}, Interval: true, Timeout: true},
			{Name: "from4_range", Key: nft.Type{nft.InetService, nft.IPv4Addr, nft.InetProto}, Interval: true},
		},
		Chains: []nft.Chain{
			{Name: "publish", Rules: []nft.Rule{{nft.DNATv4("tcp4", nft.TCPDport)}, {nft.DNATv4("udp4", nft.UDPDport)}}},
			{
				Name: "nat-prerouting", Hook: nft.Hook{Type: "nat", Point: "prerouting", Priority: nft.PriorityDstNAT},
				Rules: []nft.Rule{{nft.DaddrLocal(), nft.Jump("publish")}},
			},
			{
				Name: "filter-forward", Hook: nft.Hook{Type: "filter", Point: "forward"},
				Rules: []nft.Rule{{nft.In("networks4", nft.IPDaddr), nft.Drop()}},
			},
		},
	}
}

func port(n uint16) nft.Element {
	return nft.Element{Set: "tcp4", Key: nft.PortKey(n), Value: netip.MustParseAddrPort("172.17.0.2:80")}
}

func pairOf(p string) nft.Element {
	return nft.Element{Set: "inside4", Key: nft.PairKey(netip.MustParsePrefix(p))}
}

func prefixOf(set, p string) nft.Element {
	return nft.Element{Set: set, Key: nft.PrefixKey(netip.MustParsePrefix(p))}
}

func add(es ...nft.Element) nft.Change { return nft.Change{Add: es} }

// The rest of this file is what the differential test cannot tell.

func TestKernelOutlivesConnections(t *testing.T) {
	k := New()
	c := k.Conn()
	require.NoError(t, c.Replace(sample(), []nft.Element{port(80)}, 0))
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	require.ErrorIs(t, c.Update(sample(), add(port(81))), fs.ErrClosed)
	_, _, err := c.Elements(sample(), "tcp4")
	require.ErrorIs(t, err, fs.ErrClosed)
	es, _, err := k.Conn().Elements(sample(), "tcp4")
	require.NoError(t, err)
	require.Equal(t, []nft.Element{port(80)}, es)
}

func TestDump(t *testing.T) {
	k := New()
	require.Empty(t, k.Dump())
	c := k.Conn()
	small := nft.Table{Name: "b", Sets: []nft.Set{sample().Sets[0], sample().Sets[3]}}
	web := port(8080)
	web.Comment, web.Timeout = "web", time.Hour
	require.NoError(t, c.Replace(small, []nft.Element{pairOf("10.1.0.0/16"), port(9), web, port(80), pairOf("10.0.0.0/16")}, 0))
	require.NoError(t, c.Replace(nft.Table{Name: "a"}, nil, 0))
	k.Advance(time.Minute)
	require.Equal(t, `table inet a {
}
table inet b {
	map tcp4 {
		type inet_service : ipv4_addr . inet_service
		size 5
		flags timeout
	}

	set inside4 {
		type ipv4_addr . ipv4_addr
		flags interval
	}
}
add element inet b tcp4 { 9 : 172.17.0.2 . 80 }
add element inet b tcp4 { 80 : 172.17.0.2 . 80 }
add element inet b tcp4 { 8080 timeout 1h comment "web" : 172.17.0.2 . 80 }
add element inet b inside4 { 10.0.0.0/16 . 10.0.0.0/16 }
add element inet b inside4 { 10.1.0.0/16 . 10.1.0.0/16 }
`, k.Dump())
}

func TestTimeouts(t *testing.T) {
	k := New()
	start := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	k.Now = func() time.Time { return start }
	c := k.Conn()
	short, long, rest := port(1), port(2), port(3)
	short.Timeout, long.Timeout = time.Minute, time.Hour
	rest.Timeout, rest.Expires = time.Hour, 90*time.Second
	require.NoError(t, c.Replace(sample(), []nft.Element{short, long, rest, port(4)}, 0))
	left := func() map[nft.Key]time.Duration {
		es, _, err := c.Elements(sample(), "tcp4")
		require.NoError(t, err)
		m := map[nft.Key]time.Duration{}
		for _, e := range es {
			m[e.Key] = e.Expires
		}
		return m
	}
	one, two, three, four := nft.PortKey(1), nft.PortKey(2), nft.PortKey(3), nft.PortKey(4)
	require.Equal(t, map[nft.Key]time.Duration{one: time.Minute, two: time.Hour, three: 90 * time.Second, four: 0}, left())
	k.Advance(time.Minute - 1)
	require.Equal(t, map[nft.Key]time.Duration{one: time.Millisecond, two: 59 * time.Minute, three: 30 * time.Second, four: 0}, left())
	require.ErrorIs(t, c.Update(sample(), add(short)), unix.EEXIST)
	k.Advance(1)
	require.Equal(t, map[nft.Key]time.Duration{two: 59 * time.Minute, three: 30 * time.Second, four: 0}, left())
	require.NoError(t, c.Update(sample(), add(short)), "its place is free")
	require.NoError(t, c.Update(sample(), nft.Change{Delete: []nft.Element{short}}))
	k.Advance(time.Minute)
	require.ErrorIs(t, c.Update(sample(), nft.Change{Delete: []nft.Element{rest}}), unix.ENOENT)
	k.Advance(10 * time.Hour)
	require.Equal(t, map[nft.Key]time.Duration{four: 0}, left())
	generation, err := c.Generation()
	require.NoError(t, err)
	require.Equal(t, uint32(4), generation, "an end is no change of the ruleset")
}

// nft_add_set_elem refuses a time-out before it looks for what is there. The caller
// takes the set for one with time-outs, or it would have been refused before.
func TestTimeoutRefusedBeforeElement(t *testing.T) {
	c := New().Conn()
	e := nft.Element{Set: "hosts4", Key: nft.AddrPortKey(netip.MustParseAddrPort("192.0.2.1:1"))}
	require.NoError(t, c.Replace(sample(), []nft.Element{e}, 0))
	other := sample()
	other.Sets[5].Timeout = true
	require.ErrorIs(t, c.Update(other, add(e)), unix.EEXIST)
	e.Timeout = time.Hour
	require.ErrorIs(t, c.Update(other, add(e)), unix.EINVAL)
}

func TestRealClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := New()
		e := port(1)
		e.Timeout = time.Minute
		require.NoError(t, k.Conn().Replace(sample(), []nft.Element{e}, 0))
		time.Sleep(30 * time.Second)
		k.Advance(29 * time.Second)
		require.Contains(t, k.Dump(), "tcp4 { 1 ")
		time.Sleep(time.Second)
		require.NotContains(t, k.Dump(), "tcp4 { 1 ")
	})
}

// TestInverse: a change and its inverse leave the kernel as it was.
func TestInverse(t *testing.T) {
	k := New()
	c := k.Conn()
	timed, other := port(1), port(1)
	timed.Timeout = time.Hour
	other.Comment = "other"
	require.NoError(t, c.Replace(sample(), []nft.Element{timed, port(2), pairOf("10.1.0.0/16"), prefixOf("networks4", "10.0.0.0/8")}, 0))
	before := k.Dump()
	change := nft.Change{
		Delete: []nft.Element{timed, pairOf("10.1.0.0/16"), prefixOf("networks4", "10.0.0.0/8")},
		Add:    []nft.Element{other, port(3), pairOf("10.1.2.0/24")},
	}
	require.NoError(t, c.Update(sample(), change))
	require.NotEqual(t, before, k.Dump())
	require.NoError(t, c.Update(sample(), change.Inverse()))
	require.Equal(t, before, k.Dump())
}

func TestRollBackKeepsOrderAndTimeouts(t *testing.T) {
	k := New()
	c := k.Conn()
	e := port(1)
	e.Timeout = time.Hour
	require.NoError(t, c.Replace(sample(), []nft.Element{e, pairOf("10.1.0.0/16")}, 0))
	require.NoError(t, c.Update(sample(), add(pairOf("10.0.0.0/8"))))
	before := k.Dump()
	err := c.Update(sample(), nft.Change{
		Delete: []nft.Element{e, pairOf("10.1.0.0/16")},
		Add:    []nft.Element{port(2), pairOf("192.168.0.0/16"), port(2)},
	})
	require.EqualError(t, err, "add element tcp4 { 2 : 172.17.0.2 . 80 }: file exists")
	require.Equal(t, before, k.Dump())
	// The older of the two pairs is still asked first.
	require.NoError(t, c.Update(sample(), nft.Change{Delete: []nft.Element{pairOf("10.1.1.0/24")}}))
	require.NotContains(t, k.Dump(), "10.1.0.0/16")
	k.Advance(time.Hour)
	require.NotContains(t, k.Dump(), "tcp4 { 1 ")
}

func TestFailNext(t *testing.T) {
	k := New()
	c := k.Conn()
	one, two := errors.New("one"), errors.New("two")
	k.FailNext("Replace", one)
	k.FailNext("Replace", two)
	k.FailNext("Generation", one)
	require.Equal(t, one, c.Replace(sample(), nil, 0))
	require.Equal(t, two, k.Conn().Replace(sample(), nil, 0))
	require.Empty(t, k.Dump())
	require.NoError(t, c.Replace(sample(), nil, 0))
	_, err := c.Generation()
	require.Equal(t, one, err)
	_, err = c.Generation()
	require.NoError(t, err)
}

func TestHooks(t *testing.T) {
	k := New()
	c := k.Conn()
	var ops []string
	all := func() (errs []error) {
		_, err := c.Table("nftnat")
		errs = append(errs, err)
		_, err = c.Drift(sample())
		errs = append(errs, err)
		_, _, err = c.Elements(sample(), "tcp4")
		errs = append(errs, err)
		_, err = c.Generation()
		errs = append(errs, err)
		return append(errs, c.Update(sample(), add(port(1))), c.Replace(sample(), nil, 0), c.DeleteTable("nftnat"))
	}
	names := []string{"Table", "Drift", "Elements", "Generation", "Update", "Replace", "DeleteTable"}
	note := func(op string) error { ops = append(ops, op); return nil }
	broken := errors.New("broken")
	refuse := func(string) error { return broken }

	require.NoError(t, c.Replace(sample(), nil, 0))
	k.Hook(note)
	for _, err := range all() {
		require.NoError(t, err)
	}
	require.Equal(t, names, ops)
	k.Hook(refuse)
	for _, err := range all() {
		require.Equal(t, broken, err)
	}
	require.Empty(t, k.Dump())
	k.Hook(nil)

	// Behind each operation, but not behind one that failed.
	k.After(note)
	ops = nil
	require.Error(t, c.DeleteTable("nftnat"))
	require.Empty(t, ops)
	k.After(refuse)
	require.Equal(t, broken, c.Replace(sample(), nil, 0))
	require.Equal(t, broken, c.Update(sample(), add(port(1))))
	k.After(nil)
	require.Contains(t, k.Dump(), "add element inet nftnat tcp4 { 1 ", "it was done")

	// A hook may use the kernel: a foreign change just before a commit.
	k.Hook(func(op string) error {
		if op == "Update" {
			k.Hook(nil)
			k.Flush()
		}
		return nil
	})
	_, generation, err := c.Elements(sample(), "tcp4")
	require.NoError(t, err)
	require.Equal(t, nft.ErrStale, c.Update(sample(), nft.Change{Add: []nft.Element{port(2)}, Generation: generation}))
	require.ErrorIs(t, c.Update(sample(), add(port(2))), fs.ErrNotExist)

	// What needs no kernel asks no hook.
	k.Hook(refuse)
	require.NoError(t, c.Update(sample(), nft.Change{}))
	require.NotErrorIs(t, c.Replace(nft.Table{}, nil, 0), broken)
	require.NotErrorIs(t, c.Update(sample(), add(nft.Element{Set: "nosuch"})), broken)
}

func TestEdit(t *testing.T) {
	k := New()
	c := k.Conn()
	e := port(1)
	e.Timeout = time.Hour
	require.NoError(t, c.Replace(sample(), []nft.Element{e, port(2)}, 0))
	info, err := c.Table("nftnat")
	require.NoError(t, err)
	k.Advance(59 * time.Minute)
	k.Edit(func(tables map[string]*Table) {
		require.Len(t, tables, 1)
		table := tables["nftnat"]
		require.Equal(t, nft.PortKey(1), table.Elements[0].Key)
		table.Elements[1].Comment = "\"\n"
		table.Elements = append(table.Elements, port(3))
		table.Chains[0].Rules = nil
		table.Sets[0].Key[0] = nft.InetService
		tables["other"] = &Table{Table: nft.Table{Name: "other"}}
	})
	generation, err := c.Generation()
	require.NoError(t, err)
	require.Equal(t, uint32(3), generation)
	same, err := c.Table("nftnat")
	require.NoError(t, err)
	require.Equal(t, info, same)
	drift, err := c.Drift(sample())
	require.NoError(t, err)
	require.Equal(t, []nft.Difference{
		{Text: "chain publish: rule 1 is not: dnat ip to tcp dport map @tcp4"},
		{Text: "chain publish: rule 2 is not: dnat ip to udp dport map @udp4"},
	}, drift)
	k.Advance(time.Minute)
	es, _, err := c.Elements(sample(), "tcp4")
	require.NoError(t, err)
	require.Len(t, es, 2, "the first has ended")

	// Another table in its place is another table.
	k.Edit(func(tables map[string]*Table) { tables["nftnat"] = &Table{Table: sample()} })
	again, err := c.Table("nftnat")
	require.NoError(t, err)
	require.NotEqual(t, info.Handle, again.Handle)
	k.Flush()
	require.Empty(t, k.Dump())
	require.Panics(t, func() {
		k.Edit(func(tables map[string]*Table) {
			tables["t"] = &Table{Elements: []nft.Element{{Set: "nosuch"}}}
		})
	})
}

// TestValuesAreCopied: who gave or got a table may change it.
func TestValuesAreCopied(t *testing.T) {
	k := New()
	table := sample()
	require.NoError(t, k.Conn().Replace(table, nil, 0))
	before := k.Dump()
	table.Chains[0].Rules[0][0] = nft.Accept()
	table.Chains[0].Rules = nil
	table.Sets[0].Key[0] = nft.IPv4Addr
	table.Sets[3].Key[0] = nft.IPv6Addr
	require.Equal(t, before, k.Dump())
}

func TestOtherType(t *testing.T) {
	k := New()
	c := k.Conn()
	other := sample()
	other.Sets[5].Key = nft.Type{nft.InetService}
	e := nft.Element{Set: "hosts4", Key: nft.AddrPortKey(netip.MustParseAddrPort("192.0.2.1:1"))}
	require.NoError(t, c.Replace(other, nil, 0))
	require.ErrorIs(t, c.Update(sample(), add(e)), unix.EINVAL)
	es, _, err := c.Elements(sample(), "hosts4")
	require.NoError(t, err)
	require.Empty(t, es)
	e.Key = nft.PortKey(1)
	require.NoError(t, c.Update(other, add(e)))
	es, _, err = c.Elements(sample(), "hosts4")
	require.NoError(t, err)
	require.Len(t, es, 1)
	require.Contains(t, es[0].String(), "of another type")
}

func TestManyGoroutines(t *testing.T) {
	k := New()
	require.NoError(t, k.Conn().Replace(sample(), nil, 0))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			c := k.Conn()
			e := port(uint16(i))
			e.Set = "udp4"
			for range 100 {
				if err := errors.Join(c.Update(sample(), add(e)), c.Update(sample(), nft.Change{Delete: []nft.Element{e}})); err != nil {
					t.Error(err)
				}
				k.Advance(time.Second)
				_ = k.Dump()
				k.Hook(nil)
			}
		})
	}
	wg.Wait()
	generation, err := k.Conn().Generation()
	require.NoError(t, err)
	require.Equal(t, uint32(2+1600), generation)
}

// TestUpdateDoesNotCopy holds that a change costs what it changes.
func TestUpdateDoesNotCopy(t *testing.T) {
	k := New()
	c := k.Conn()
	table := sample()
	var es []nft.Element
	for i := range 60000 {
		e := port(uint16(i))
		e.Set = "udp4"
		es = append(es, e)
	}
	require.NoError(t, c.Replace(table, es, 0))
	allocs := testing.AllocsPerRun(10, func() {
		if err := errors.Join(c.Update(table, nft.Change{Delete: es[:1]}), c.Update(table, add(es[:1]...))); err != nil {
			t.Error(err)
		}
	})
	require.Less(t, allocs, 1000.0)
}
