// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// A change is refused if one of its ports, alone or in a range, would differ in masquerade from
// what leads to the same port of the backend: compared port by port, as they are served.
func TestMasqueradeOfRanges(t *testing.T) {
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	random := func() portset.Port {
		first := 100 + r.IntN(20)
		back := first
		if r.IntN(3) == 0 {
			back = 100 + r.IntN(20)
		}
		host := []string{"", "192.0.2.1:", "192.0.2.2:"}[r.IntN(3)]
		p := portset.Of(nattest.Mapping(t, fmt.Sprintf("%s%d->172.30.0.%d:%d", host, first, 2+r.IntN(2), back)))
		if p.Masquerade = r.IntN(2) == 0; back == first {
			p.More = uint16(r.IntN(6))
		}
		return p
	}
	refused, cut := 0, 0
	for range 1000 {
		reserved, err := portset.NewReservations(1, 65535)
		require.NoError(t, err)
		l := newPublished(reserved)
		for i := range r.IntN(7) {
			p := random()
			c := publishing(&l, p)
			if i%2 == 1 { // some are taken out
				c = portset.Change{Removed: slices.Collect(l.mappings.In(p.Part(p.First(), p.First())))}
			}
			if l.checkMasquerade(&c) == nil {
				p, err := l.plan(change{Change: c})
				require.NoError(t, err)
				l.mappings.Do(p.layout)
				l.options.Do(p.layout)
				l.backends.AddAll(p.countsBefore, -1)
				l.backends.AddAll(p.countsAfter, 1)
				requireMasquerades(t, &l.mappings)
			}
		}
		added := random()
		c := publishing(&l, added)
		layout, err := l.mappings.Plan(&c)
		require.NoError(t, err)
		after := l.mappings.Clone()
		after.Do(layout)
		disagrees := false
		for p := range c.After {
			for one := range p.Singles {
				for have := range after.All {
					for other := range have.Singles {
						disagrees = disagrees || disagree(one, other)
					}
				}
			}
		}
		got := l.checkMasquerade(&c)
		require.Equal(t, disagrees, got != nil, "%v: %v", added.Mapping(), got)
		if disagrees {
			require.ErrorIs(t, got, nat.ErrConflict)
			refused++
		}
		if !disagrees {
			p, err := l.plan(change{Change: c})
			require.NoError(t, err)
			layout, after = p.layout, p.mappingsAfter()
			requireMasquerades(t, &after)
			cut += len(p.Apart)
		}
		l.options.Do(layout)
		want := portset.NewOptions()
		for e := range after.Entries {
			want.Count(&e, 1)
		}
		require.Equal(t, want, l.options)
	}
	require.NotZero(t, refused)
	require.NotZero(t, cut)
}

// publishing returns the change that publishes a port or a range, whatever is there.
func publishing(l *published, p portset.Port) (c portset.Change) {
	for part, have := range l.mappings.Split(p) {
		if have == nil {
			c.Added = append(c.Added, part)
		} else {
			c.Moved = append(c.Moved, portset.Move{Frontend: part.Frontend, From: *have, To: part.Target, More: part.More})
		}
	}
	return c
}

// requireMasquerades checks that the elements of ranges say of each port of a backend what the ports do
// that lead there.
func requireMasquerades(t *testing.T, s *portset.Set) {
	t.Helper()
	of := map[portset.Called]bool{}
	for e := range s.Entries {
		if e.Kind == portset.EntryRange && e.Masquerade && !e.ProxiedOnly() {
			for p := range e.Singles {
				of[p.Called()] = true
			}
		}
	}
	for have := range s.All {
		if have.Masquerade || have.ProxiedOnly() {
			continue
		}
		for p := range have.Singles {
			for c := range of {
				require.False(t, c.Meets(p.Called()), "%v would be masqueraded", p.Mapping())
			}
		}
	}
}

// A mapping can lead to a port of a backend that was taken out of a masqueraded range, or was given to
// another: the range is cut there, before it is published.
func TestMasqueradedRangeIsCut(t *testing.T) {
	e, b := openFake(t)
	masqueraded := nattest.Mapping(t, "1000-1999->172.30.0.2:1000-1999")
	masqueraded.Masquerade = true
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, masqueraded)
	require.NoError(t, err)
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "80->172.30.0.2:1500"))
	require.EqualError(t, err, "publish tcp 80: tcp 1000-1999 is published as 1000-1999->172.30.0.2:1000-1999, "+
		"which leads to the same port of the backend and is masqueraded; both have to be, or neither")
	remove(t, e, "1500->172.30.0.2:1500")
	replace(t, e, "1600->172.30.0.3:1600")
	whole := func() bool { return strings.Contains(b.kernel.Dump(), "masquerade_to4_range { 1000-1999 ") }
	require.True(t, whole())
	b.kernel.Hook(func(op string) error {
		if dump := b.kernel.Dump(); op == "Update" && strings.Contains(dump, "tcp4 { 80 ") {
			require.False(t, whole(), "it is cut before the mapping is there")
		}
		return nil
	})
	publish(t, e, "80->172.30.0.2:1500", "81->172.30.0.2:1600")
	b.kernel.Hook(nil)
	requireOptions(t, b, e)
	require.False(t, whole())
	is := publishedBy(e)
	remove(t, e, "80->172.30.0.2:1500")
	requireOptions(t, b, e)
	publish(t, e, "80->172.30.0.2:1500")
	require.Equal(t, is, publishedBy(b.open(t)))
}
