// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The tests of this file read from a real kernel while others change it.

// TestElementsReadBack reads random elements of every type, those with time-outs too.
func TestElementsReadBack(t *testing.T) {
	c, _ := kernel(t)
	r, table := newRand(t), sample()
	es := randomElements(r, table, 200)
	for i := range es {
		if es[i].Timeout != 0 && i%2 == 0 {
			es[i].Expires = (es[i].Timeout / 3).Round(time.Second)
		}
	}
	require.NoError(t, c.Replace(table, es, 0))
	var sets []string
	for _, s := range holdable(table) {
		sets = append(sets, s.Name)
	}
	got, _, err := c.Elements(table, sets...)
	require.NoError(t, err)
	requireSame(t, es, got)
	none, _, err := c.Elements(table)
	require.NoError(t, err)
	require.Empty(t, none)
}

// TestCountsElements: whether the kernel counts is the same for every table, and not
// known where there is none.
func TestCountsElements(t *testing.T) {
	c, _ := kernel(t)
	table := sample()
	_, err := c.CountsElements(table)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, c.Replace(table, ports(3, ""), 0))
	counts, err := c.CountsElements(table)
	require.NoError(t, err)
	set, _ := table.Set("tcp4")
	count, counted, err := c.count(table.Name, set)
	require.NoError(t, err)
	require.Equal(t, counts, counted)
	if counted {
		require.EqualValues(t, 3, count)
	}
}

// commit changes another table until ctx ends, with a pause after each change.
func commit(ctx context.Context, c *Conn, pause time.Duration) error {
	table := Table{Name: "other", Sets: sample().Sets}
	for i := uint16(0); ctx.Err() == nil; i++ {
		e := ports(1, "")[0]
		e.Key = PortKey(i)
		if err := c.Update(table, Change{Add: []Element{e}}); err != nil {
			return err
		}
		time.Sleep(pause)
		if err := c.Update(table, Change{Delete: []Element{e}}); err != nil {
			return err
		}
		time.Sleep(pause)
	}
	return nil
}

// TestElementsUnderForeignCommits: what is returned is whole, whatever others do.
func TestElementsUnderForeignCommits(t *testing.T) {
	for _, tt := range []struct {
		name  string
		pause time.Duration
		times int
	}{{"at times", 20 * time.Millisecond, 8}, {"a thousand a second", time.Millisecond, 8}, {"without a pause", 0, 4}} {
		t.Run(tt.name, func(t *testing.T) {
			c, ns := kernel(t)
			other := dialIn(t, ns)
			es := ports(3000, "some comment to make it longer")
			require.NoError(t, c.Replace(sample(), es, 0))
			require.NoError(t, other.Replace(Table{Name: "other", Sets: sample().Sets}, nil, 0))
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- commit(ctx, other, tt.pause) }()
			for range tt.times {
				got, _, err := c.Elements(sample(), "tcp4", "tcp6")
				require.NoError(t, err)
				require.Len(t, got, len(es))
				// Without a pause each attempt may meet a commit, but not all of many.
				var drift []Difference
				require.Eventually(t, func() bool {
					drift, err = c.Drift(sample())
					return tt.pause != 0 || !errors.Is(err, ErrInterrupted)
				}, time.Minute, time.Millisecond)
				require.NoError(t, err)
				require.Empty(t, drift)
			}
			stop()
			require.NoError(t, <-ended)
		})
	}
}

// TestElementsOfOneState: where others change their own tables all the time and somebody
// this one at times, what is read is one state of it and no mixture of two.
func TestElementsOfOneState(t *testing.T) {
	c, ns := kernel(t)
	other, rival := dialIn(t, ns), dialIn(t, ns)
	es := ports(3000, "first")
	moved := slices.Clone(es)
	for i := range moved {
		moved[i].Comment = "second"
	}
	require.NoError(t, c.Replace(sample(), es, 0))
	require.NoError(t, other.Replace(Table{Name: "other", Sets: sample().Sets}, nil, 0))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- commit(ctx, other, time.Millisecond) }()
	go func() {
		for from, to := es, moved; ctx.Err() == nil; from, to = to, from {
			time.Sleep(10 * time.Millisecond)
			if err := rival.Update(sample(), Change{Delete: from, Add: to}); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	states := map[string]int{}
	for range 60 {
		got, _, err := c.Elements(sample(), "tcp4")
		if errors.Is(err, ErrInterrupted) {
			states["none"]++
			continue
		}
		require.NoError(t, err)
		require.Len(t, got, len(es))
		for _, e := range got {
			require.Equal(t, got[0].Comment, e.Comment, "two states at once")
		}
		states[got[0].Comment]++
	}
	stop()
	require.NoError(t, errors.Join(<-ended, <-ended))
	t.Log(states)
	require.NotZero(t, states["first"]+states["second"], "nothing was ever read")
}

// TestElementsWhileSomeEnd: the kernel frees what has ended between the parts of a
// dump and then passes others over, without telling. Those others must be there.
func TestElementsWhileSomeEnd(t *testing.T) {
	c, _ := kernel(t)
	es := ports(15000, "")
	lasting := 0
	for i := range es {
		if i%10 == 0 {
			es[i].Timeout = time.Duration(500+i/10) * time.Millisecond
		} else {
			lasting++
		}
	}
	require.NoError(t, c.Replace(sample(), es, 0))
	readings := 0
	for end := time.Now().Add(2500 * time.Millisecond); time.Now().Before(end); readings++ {
		got, _, err := c.Elements(sample(), "tcp4")
		require.NoError(t, err)
		n := 0
		for _, e := range got {
			if e.Timeout == 0 {
				n++
			} else {
				require.Positive(t, e.Expires)
			}
		}
		require.Equal(t, lasting, n)
	}
	t.Logf("%d readings", readings)
}

// TestElementsWhileTheTableGrows: a hash table is made larger, and smaller, behind the
// commit that was the cause.
func TestElementsWhileTheTableGrows(t *testing.T) {
	c, _ := kernel(t)
	table := sample()
	table.Sets[0].Size = 0
	es := ports(20000, "")
	require.NoError(t, c.Replace(table, nil, 0))
	for range 6 {
		require.NoError(t, c.Update(table, Change{Add: es}))
		got, _, err := c.Elements(table, "tcp4")
		require.NoError(t, err)
		require.Len(t, got, len(es))
		require.NoError(t, c.Update(table, Change{Delete: es[2000:]}))
		got, _, err = c.Elements(table, "tcp4")
		require.NoError(t, err)
		require.Len(t, got, 2000)
		require.NoError(t, c.Update(table, Change{Delete: es[:2000]}))
	}
}

// TestElementsOfOthers are those that are none of ours.
func TestElementsOfOthers(t *testing.T) {
	c, ns := kernel(t)
	require.NoError(t, c.Replace(sample(), nil, 0))
	for _, tt := range []struct{ set, element, want string }{
		{"inside4", "{ 10.0.0.1-10.0.0.9 . 10.0.0.1-10.0.0.9 }", "the range from 0a0000010a000001 to 0a0000090a000009 is no pair of one prefix"},
		{"inside4", "{ 10.0.0.0/8 . 11.0.0.0/8 }", "is no pair of one prefix"},
		{"networks4", "{ 10.0.0.1-10.0.0.9 }", "the range from 10.0.0.1 to 10.0.0.9 is no prefix"},
		{"networks4", "{ 255.255.255.253-255.255.255.255 }", "the range from 255.255.255.253 to 255.255.255.255 is no prefix"},
		{"networks4", "{ 0.0.0.0-0.0.0.6 }", "the range from 0.0.0.0 to 0.0.0.6 is no prefix"},
		{"networks6", "{ 2001:db8::1-2001:db8::2 }", "the range from 2001:db8::1 to 2001:db8::2 is no prefix"},
		{"links", `{ "a b" }`, `"a b\x00\x00`},
		{"links", `{ "a:b" }`, `"a:b\x00\x00`},
	} {
		require.Zero(t, runNFT(t, ns, "add", "element", "inet", "nftnat", tt.set, tt.element).Code)
		strange, _, err := c.Elements(sample(), tt.set)
		require.NoError(t, err)
		require.NotEmpty(t, strange)
		for _, e := range strange {
			require.Contains(t, e.Foreign, tt.want)
			require.Contains(t, e.String(), tt.want)
			require.Equal(t, Element{Set: tt.set, Foreign: e.Foreign}, e)
			require.Error(t, c.Update(sample(), Change{Add: []Element{e}}))
		}
		require.Zero(t, runNFT(t, ns, "flush", "set", "inet", "nftnat", tt.set).Code)
		got, _, err := c.Elements(sample(), tt.set)
		require.NoError(t, err)
		require.Empty(t, got)
	}
	// A set of another type is told by its elements.
	other := sample()
	other.Sets[0].Key = Type{IPv4Addr, InetService}
	require.NoError(t, c.Update(sample(), Change{Add: ports(1, "")}))
	strange, _, err := c.Elements(other, "tcp4")
	require.NoError(t, err)
	require.Equal(t, []Element{{Set: "tcp4", Foreign: "a key of 2 bytes is no ipv4_addr . inet_service"}}, strange)
	// What stands for every port.
	require.Zero(t, runNFT(t, ns, "add", "element", "inet", "nftnat", "tcp4", "{ * : 192.0.2.1 . 80 }").Code)
	both, _, err := c.Elements(sample(), "tcp4")
	require.NoError(t, err)
	require.Len(t, both, 2)
	require.Contains(t, both, Element{Set: "tcp4", Foreign: "a key of 0 bytes is no inet_service"})
}
