// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nfttest

import (
	"context"
	"io/fs"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nft"
)

func owned() nft.Table {
	t := sample()
	t.Flags = nft.TableOwned
	return t
}

// owners are three connections to one real kernel and three to a fake, that take tables
// from each other.
type owners struct {
	pair
	ns    *lab.NS
	k     *Kernel
	reals [3]*nft.Conn
	fakes [3]*Fake
}

// as makes one of the connections act.
func (o *owners) as(i int) { o.real, o.fake = o.reals[i], o.fakes[i] }

func (o *owners) step() {
	o.as(o.r.IntN(3))
	t := []nft.Table{sample(), owned()}[o.r.IntN(2)]
	es := []nft.Element{port(1), port(uint16(1 + o.r.IntN(9)))}[o.r.IntN(2):]
	switch n := o.r.IntN(14); n {
	case 0, 1:
		o.wrote("replace", o.real.Replace(t, es, 0), o.fake.Replace(t, es, 0))
	case 2:
		o.wrote("delete table", o.real.DeleteTable(t.Name), o.fake.DeleteTable(t.Name))
	case 3, 4:
		o.wrote("restore none", o.real.Restore(t, es, 0), o.fake.Restore(t, es, 0))
	case 5, 6:
		info, realErr := o.real.Table(t.Name)
		fake, fakeErr := o.fake.Table(t.Name)
		o.same("table", realErr, fakeErr)
		past := uint64(o.r.IntN(2)) // that of a table that is no more
		o.wrote("restore", o.real.Restore(t, es, info.Handle+1000*past), o.fake.Restore(t, es, fake.Handle+1000*past))
	case 7:
		ch := nft.Change{Delete: es[:o.r.IntN(len(es))], Add: es}
		o.wrote("update", o.real.Update(t, ch), o.fake.Update(t, ch))
	case 8, 9:
		o.wrote("claim", o.real.Claim(t.Name, 0), o.fake.Claim(t.Name, 0))
	case 12, 13:
		real, fake := o.handles(t.Name)
		ch := nft.Change{Delete: es[:o.r.IntN(len(es))], Add: es}
		o.wrote("repair", o.real.Repair(t, ch, real), o.fake.Repair(t, ch, fake))
	case 10:
		i := o.r.IntN(3)
		require.NoError(o.t, o.reals[i].Close())
		require.NoError(o.t, o.fakes[i].Close())
		o.reals[i], o.fakes[i] = dialIn(o.t, o.ns), o.k.Conn()
	case 11:
		if o.r.IntN(4) == 0 {
			labtest.Exec(o.t, o.ns, "nft", "flush", "ruleset")
			o.k.Flush()
		}
	}
	// Whose the table is, and what it holds, all see the same.
	for i := range o.reals {
		want, wantErr := o.reals[i].Table(t.Name)
		got, gotErr := o.fakes[i].Table(t.Name)
		o.same("table", wantErr, gotErr)
		got.Handle = want.Handle
		require.Equal(o.t, want, got)
		wantLines, wantErr := o.reals[i].Drift(t)
		gotLines, gotErr := o.fakes[i].Drift(t)
		o.same("drift", wantErr, gotErr)
		require.Equal(o.t, wantLines, gotLines)
	}
}

// TestOwnersAgainstKernel plays owners, others and orphans at random.
func TestOwnersAgainstKernel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	o := &owners{ns: labtest.NewNS(t, "owners"), k: New()}
	o.pair = pair{t: t, r: rand.New(rand.NewPCG(seed, 0)), count: map[string]int{}}
	for i := range o.reals {
		o.reals[i], o.fakes[i] = dialIn(t, o.ns), o.k.Conn()
	}
	if can, err := o.reals[0].Owns(); err != nil || !can {
		t.Skipf("needs a kernel with persistent owned tables: %v", err)
	}
	for range 500 {
		o.step()
	}
	t.Log(o.count)
	for _, kind := range []string{"done", "file exists", "operation not permitted", "operation not supported"} {
		require.Positive(t, o.count[kind], "nothing was %s", kind)
	}
}

// TestKernelWithoutOwners is one of before 6.9.
func TestKernelWithoutOwners(t *testing.T) {
	k := New()
	k.NoOwners = true
	c := k.Conn()
	can, err := c.Owns()
	require.NoError(t, err)
	require.False(t, can)
	require.ErrorIs(t, c.Replace(owned(), nil, 0), unix.EOPNOTSUPP)
	require.Empty(t, k.Dump())
	require.NoError(t, c.Replace(sample(), nil, 0))
	require.ErrorIs(t, c.Claim("nftnat", 0), unix.EOPNOTSUPP)
}

// TestEditPassesOverOwned: what others do to all tables they do not do to owned ones.
func TestEditPassesOverOwned(t *testing.T) {
	k := New()
	c := k.Conn()
	require.NoError(t, c.Replace(owned(), []nft.Element{port(1)}, 0))
	before := k.Dump()
	k.Flush()
	k.Edit(func(tables map[string]*Table) { require.Empty(t, tables) })
	require.Equal(t, before, k.Dump())
	require.Panics(t, func() {
		k.Edit(func(tables map[string]*Table) { tables["nftnat"] = &Table{Table: sample()} })
	})
	require.NoError(t, c.Close())
	require.Contains(t, k.Dump(), "\tflags persist\n")
	k.Flush()
	require.Empty(t, k.Dump())
}

// TestWatchFake: it hears what the real one hears.
func TestWatchFake(t *testing.T) {
	k := New()
	c, other := k.Conn(), k.Conn()
	ctx, stop := context.WithCancel(t.Context())
	heard, ended := make(chan struct{}), make(chan error)
	go func() { ended <- c.Watch(ctx, "nftnat", func() { heard <- struct{}{} }) }()
	<-heard
	require.NoError(t, c.Replace(sample(), nil, 0))
	require.NoError(t, other.Replace(nft.Table{Name: "other"}, nil, 0))
	require.NoError(t, other.Update(sample(), add(port(1))))
	<-heard
	k.Flush()
	<-heard
	k.Overrun()
	<-heard
	require.ErrorIs(t, other.DeleteTable("nftnat"), fs.ErrNotExist)
	stop()
	require.NoError(t, <-ended)
	require.NoError(t, c.Close())
	require.Error(t, c.Watch(t.Context(), "nftnat", nil))
}
