// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nfttest

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nft"
)

// conn is what both kernels answer to.
type conn interface {
	Replace(t nft.Table, es []nft.Element, generation uint32) error
	Update(t nft.Table, ch nft.Change) error
	Elements(t nft.Table, sets ...string) ([]nft.Element, uint32, error)
	Table(name string) (nft.TableInfo, error)
	CountsElements(t nft.Table) (bool, error)
	Generation() (uint32, error)
	Drift(t nft.Table) ([]nft.Difference, error)
	DeleteTable(name string) error
	Restore(t nft.Table, es []nft.Element, handle uint64) error
	Repair(t nft.Table, ch nft.Change, handle uint64) error
	Owns() (bool, error)
	Claim(name string, generation uint32) error
	Watch(ctx context.Context, table string, changed func()) error
	Close() error
}

var (
	_ conn = (*nft.Conn)(nil)
	_ conn = (*Fake)(nil)
)

// dial connects to a namespace of the test's own.
func dial(t *testing.T) *nft.Conn {
	t.Helper()
	return dialIn(t, labtest.NewNS(t, "fake"))
}

func dialIn(t *testing.T, ns *lab.NS) *nft.Conn {
	t.Helper()
	f, err := os.Open(ns.Path())
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	c, err := nft.Dial(&nft.Config{NetNS: int(f.Fd())})
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EPFNOSUPPORT) {
		t.Skipf("needs netfilter: %v", err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// variants are tables of one name that differ here and there.
func variants() []nft.Table {
	whole, fewer, renamed, typed, ruled := sample(), sample(), sample(), sample(), sample()
	fewer.Sets, fewer.Chains = slices.Delete(fewer.Sets, 2, 3), nil
	renamed.Sets[5].Name, renamed.Chains[2].Name = "hosts", "forward"
	typed.Sets[5].Key = nft.Type{nft.IPv6Addr, nft.InetService}
	typed.Sets[2].Timeout, typed.Sets[1].Size = true, 3
	typed.Sets[3].Interval, typed.Sets[6].Timeout = false, false
	ruled.Chains[0].Rules = []nft.Rule{{nft.DNATv4("udp4", nft.UDPDport)}, {nft.Accept()}, {nft.Drop()}}
	ruled.Chains[1].Hook.Priority, ruled.Chains[2].Hook = 5, nft.Hook{}
	whole.Tag, fewer.Tag = "a", "b"
	bad := sample()
	bad.Chains[0].Name = "dnat"
	other := nft.Table{Name: "other", Sets: sample().Sets[:1]}
	return []nft.Table{whole, whole, whole, fewer, renamed, typed, ruled, bad, other}
}

// randomElement is of a universe so small that elements meet.
func randomElement(r *rand.Rand) nft.Element {
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	e := nft.Element{Set: pick("tcp4", "tcp4", "tcp4_host", "tcp4_host", "udp4", "inside4", "inside4", "segments4", "segments4", "hosts4",
		"networks4", "networks4", "networks4", "away4", "away4", "leases4", "links", "tcp4_range", "tcp4_range", "tcp4_range",
		"tcp4_host_range", "tcp4_host_range", "tcp4_host_range", "from4_range")}
	if r.IntN(100) == 0 {
		e.Set = pick("hosts", "nosuch")
	}
	host := netip.AddrPortFrom(netip.MustParseAddr(pick("192.0.2.1", "192.0.2.2")), uint16(r.IntN(3)))
	switch e.Set {
	case "tcp4", "udp4", "nosuch":
		e.Key = nft.PortKey(uint16(r.IntN(9)))
	case "inside4":
		addr := netip.AddrFrom4([4]byte{10, byte(r.IntN(4)), byte(r.IntN(2)) * 128, 0})
		e.Key = nft.PairKey(netip.PrefixFrom(addr, 13+r.IntN(6)))
	case "segments4":
		addr := netip.AddrFrom4([4]byte{10, byte(r.IntN(4)), byte(r.IntN(2)) * 128, 0})
		e.Key = nft.SegmentKey(pick("br0", "br0", "br1", "b"), netip.PrefixFrom(addr, 13+r.IntN(6)))
	case "networks4", "away4":
		e.Key = nft.PrefixKey(randomPrefix(r))
	case "tcp4_range", "tcp4_host_range", "from4_range":
		n := nft.Range{First: uint16(r.IntN(8))}
		n.Last = n.First + uint16(r.IntN(3))
		if e.Set != "tcp4_range" {
			n.Addr = netip.PrefixFrom(host.Addr(), 32)
		}
		if e.Set == "from4_range" {
			n.L4Proto = []uint8{6, 17}[r.IntN(2)]
			n.Addr = netip.PrefixFrom(host.Addr(), 31+r.IntN(2))
		} else {
			e.Value = netip.AddrPortFrom(host.Addr(), 0)
		}
		e.Key = nft.RangeKey(n)
	case "leases4":
		e.Key = nft.AddrKey(netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(5))}))
	case "links":
		e.Key = nft.InterfaceKey(pick("lo", "veth0", "veth1", "veth01", "a b"))
	default:
		e.Key = nft.AddrPortKey(host)
	}
	if e.Set == "tcp4" || e.Set == "tcp4_host" || e.Set == "udp4" {
		e.Value = host
	}
	if pick("tcp4", "tcp4_host", "leases4", "away4", "tcp4_range", "tcp4_host_range") == e.Set {
		e.Timeout = time.Duration(1+r.IntN(9)) * time.Hour
	}
	if r.IntN(3) == 0 {
		e.Comment = pick("web", "on-link", `C:\`, "äß")
	}
	if r.IntN(100) == 0 {
		e.Comment = pick("\"", "\n")
	}
	return e
}

// randomPrefix meets others in every way but those that TestHalves and TestDeceived are
// about: of the first, kernels do not think alike.
func randomPrefix(r *rand.Rand) netip.Prefix {
	switch r.IntN(8) {
	case 0:
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, 0}), 14)
	case 1:
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, byte(r.IntN(2)) * 255, 255}), 32)
	}
	// No two of these fill another: the end of the first is not there.
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(r.IntN(3)), 0, 0}), 16+2*r.IntN(2))
}

func randomElements(r *rand.Rand, most int) []nft.Element {
	var es []nft.Element
	for range r.IntN(most + 1) {
		es = append(es, randomElement(r))
	}
	return es
}

// pair is a real kernel and a fake that are asked the same.
type pair struct {
	t     *testing.T
	r     *rand.Rand
	real  *nft.Conn
	fake  *Fake
	base  uint32 // how many changes the real namespace had before
	count map[string]int
}

// wrote compares the errors of a transaction, and counts them.
func (p *pair) wrote(what string, want, got error) {
	p.t.Helper()
	p.same(what, want, got)
	var errno unix.Errno
	switch {
	case want == nil:
		p.count["done"]++
		p.count[what]++
	case errors.As(want, &errno):
		p.count[errno.Error()]++
	case errors.Is(want, nft.ErrStale):
		p.count["stale"]++
	case errors.Is(want, nft.ErrNotRepairable):
		p.count["not repairable"]++
	default:
		p.count["invalid"]++
	}
}

// same compares two errors by all that a caller can tell.
func (p *pair) same(what string, want, got error) {
	p.t.Helper()
	if want == nil || got == nil {
		require.Equal(p.t, want, got, what)
		return
	}
	var w, g unix.Errno
	if !errors.As(want, &w) || !errors.As(got, &g) {
		require.EqualError(p.t, got, want.Error(), what)
		return
	}
	require.Equal(p.t, errors.Is(want, nft.ErrStale), errors.Is(got, nft.ErrStale), what)
	if w == unix.ENFILE && g == unix.EEXIST {
		g = w // of an element that a full map holds: older kernels look at the size first
	}
	require.Equal(p.t, w, g, what)
	var wantOp, gotOp *nft.OpError
	require.Equal(p.t, errors.As(want, &wantOp), errors.As(got, &gotOp), what)
	if wantOp != nil {
		require.Equal(p.t, wantOp.Op, gotOp.Op, what)
		require.Equal(p.t, wantOp.Object, gotOp.Object, what)
	}
}

func (p *pair) step(i int) {
	tables := variants()
	t := tables[p.r.IntN(len(tables))]
	generation := uint32(0)
	if p.r.IntN(4) == 0 {
		generation = uint32(1 + p.r.IntN(i+2))
	} else if p.r.IntN(2) == 0 {
		now, err := p.fake.Generation()
		require.NoError(p.t, err)
		generation = now
	}
	at := func(base uint32) uint32 {
		if generation == 0 {
			return 0
		}
		return generation + base
	}
	switch n := p.r.IntN(60); {
	case n == 0:
		p.wrote("delete table "+t.Name, p.real.DeleteTable(t.Name), p.fake.DeleteTable(t.Name))
	case n <= 8:
		// Something to meet with.
		p.wrote("replace", p.real.Replace(sample(), nil, 0), p.fake.Replace(sample(), nil, 0))
	case n <= 10:
		es := randomElements(p.r, 4)
		p.wrote("replace", p.real.Replace(t, es, at(p.base)), p.fake.Replace(t, es, at(0)))
	case n <= 20:
		ch := nft.Change{Delete: p.deletions(), Add: randomElements(p.r, 2)}
		realCh, fakeCh := ch, ch
		realCh.Generation, fakeCh.Generation = at(p.base), at(0)
		real, fake := p.handles(t.Name)
		p.wrote("repair", p.real.Repair(t, realCh, real), p.fake.Repair(t, fakeCh, fake))
	default:
		if p.r.IntN(10) > 0 {
			t = sample()
		}
		ch := nft.Change{Delete: p.deletions(), Add: randomElements(p.r, 3)}
		realCh, fakeCh := ch, ch
		realCh.Generation, fakeCh.Generation = at(p.base), at(0)
		p.wrote("update", p.real.Update(t, realCh), p.fake.Update(t, fakeCh))
	}
}

// handles are those of a table in the two kernels, at times those of none.
func (p *pair) handles(table string) (real, fake uint64) {
	p.t.Helper()
	inReal, wantErr := p.real.Table(table)
	inFake, gotErr := p.fake.Table(table)
	p.same("table", wantErr, gotErr)
	if p.r.IntN(10) == 0 {
		return inReal.Handle + 1000, inFake.Handle + 1000
	}
	return inReal.Handle, inFake.Handle
}

// deletions are of elements that are there, most of the time.
func (p *pair) deletions() []nft.Element {
	if p.r.IntN(4) == 0 {
		return randomElements(p.r, 2)
	}
	es, _, err := p.fake.Elements(sample(), "tcp4", "tcp4_host", "inside4", "segments4", "networks4", "away4", "leases4", "links")
	if err != nil || len(es) == 0 {
		return nil
	}
	return es[:p.r.IntN(min(3, len(es)))]
}

// compareState compares all that can be read of the tables.
func (p *pair) compareState(tables ...nft.Table) {
	p.t.Helper()
	for _, t := range tables {
		want, wantErr := p.real.Drift(t)
		got, gotErr := p.fake.Drift(t)
		p.same("drift", wantErr, gotErr)
		require.ElementsMatch(p.t, want, got)
		wantInfo, wantErr := p.real.Table(t.Name)
		gotInfo, gotErr := p.fake.Table(t.Name)
		p.same("table", wantErr, gotErr)
		require.Equal(p.t, wantInfo.Comment, gotInfo.Comment)
		require.Equal(p.t, wantInfo.Flags, gotInfo.Flags)
		require.Equal(p.t, wantInfo.Tag, gotInfo.Tag)
		for _, set := range []string{"tcp4", "tcp4_host", "udp4", "inside4", "segments4", "hosts4", "networks4", "away4", "leases4", "links", "nosuch"} {
			want, wantAt, wantErr := p.real.Elements(t, set)
			got, gotAt, gotErr := p.fake.Elements(t, set)
			if wantErr != nil || gotErr != nil {
				p.same("elements of "+set, wantErr, gotErr)
				continue
			}
			require.Equal(p.t, lines(want), lines(got))
			require.Equal(p.t, wantAt-p.base, gotAt)
		}
	}
	want, err := p.real.Generation()
	require.NoError(p.t, err)
	got, err := p.fake.Generation()
	require.NoError(p.t, err)
	require.Equal(p.t, want-p.base, got)
}

func lines(es []nft.Element) []string {
	var ls []string
	for _, e := range es {
		if e.Foreign != "" {
			e.Foreign = "strange" // the two have other words for it
		}
		ls = append(ls, e.String())
	}
	slices.Sort(ls)
	return ls
}

// TestFakeAgainstKernel asks a real kernel and a fake the same, at random, and compares
// every answer and all that can be read.
func TestFakeAgainstKernel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	p := &pair{t: t, r: rand.New(rand.NewPCG(seed, 0)), real: dial(t), fake: New().Conn(), count: map[string]int{}}
	now, err := p.real.Generation()
	require.NoError(t, err)
	p.base = now - 1
	require.NoError(t, p.real.Replace(sample(), nil, 0))
	require.NoError(t, p.fake.Replace(sample(), nil, 0))
	for i := range 800 {
		p.step(i)
		if i%4 == 0 {
			p.compareState(variants()[p.r.IntN(len(variants()))])
		}
	}
	p.compareState(variants()...)
	t.Log(p.count)
	for _, kind := range []string{"done", "repair", "invalid", "stale", "not repairable", "file exists", "no such file or directory"} {
		require.Positive(t, p.count[kind], "nothing was %s", kind)
	}
}

// TestFullMap is what random steps seldom come to.
func TestFullMap(t *testing.T) {
	for _, c := range []conn{dial(t), New().Conn()} {
		full := []nft.Element{port(1), port(2), port(3), port(4), port(5)}
		require.NoError(t, c.Replace(sample(), full, 0))
		err := c.Update(sample(), add(port(6)))
		require.ErrorIs(t, err, unix.ENFILE)
		require.EqualError(t, err, "add element tcp4 { 6 : 172.17.0.2 . 80 }: too many open files in system")
		require.NoError(t, c.Update(sample(), nft.Change{Delete: full[:1], Add: []nft.Element{port(6)}}))
		require.ErrorIs(t, c.Update(sample(), nft.Change{Delete: full[1:2], Add: full[:2]}), unix.ENFILE)
		require.ErrorIs(t, c.Replace(sample(), append(full, port(6)), 0), unix.ENFILE)
	}
}

// TestHandles: a table that is made again is another one, in both kernels.
func TestHandles(t *testing.T) {
	real, fake := dial(t), New().Conn()
	for _, c := range []conn{real, fake} {
		require.NoError(t, c.Replace(sample(), nil, 0))
		first, err := c.Table("nftnat")
		require.NoError(t, err)
		require.NoError(t, c.Update(sample(), add(port(1))))
		same, err := c.Table("nftnat")
		require.NoError(t, err)
		require.Equal(t, first, same)
		require.NoError(t, c.Replace(sample(), nil, 0))
		second, err := c.Table("nftnat")
		require.NoError(t, err)
		require.Greater(t, second.Handle, first.Handle)
	}
}

// TestDumpLoads: nft(8) loads what Dump writes.
func TestDumpLoads(t *testing.T) {
	ns := labtest.NewNS(t, "dump")
	k := New()
	c := k.Conn()
	r := rand.New(rand.NewPCG(1, 2))
	require.NoError(t, c.Replace(sample(), nil, 0))
	for range 100 {
		e := randomElement(r)
		if r, ok := rangeOf(e.Key); ok && r.prefix.Bits() != 16 {
			continue // those around others load only behind them
		}
		_ = c.Update(sample(), add(e)) // some meet
	}
	require.NoError(t, c.Replace(nft.Table{Name: "other"}, nil, 0))
	labtest.ExecInput(t, ns, k.Dump(), "nft", "-f", "-")
}
