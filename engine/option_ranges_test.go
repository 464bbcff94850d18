// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// A change is refused if one of its ports, alone or in a range, would differ in masquerade from
// what leads to the same port of the backend: compared port by port.
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
	refused := 0
	for range 1000 {
		reserved, err := portset.NewReservations(1, 65535)
		require.NoError(t, err)
		l := newPublished(reserved)
		for range r.IntN(4) {
			p := random()
			if c := (portset.Change{Added: []portset.Port{p}}); l.checkMasquerade(&c) == nil {
				l.mappings.Put(p)
			}
		}
		for e := range l.mappings.Entries {
			l.options.Count(&e, 1)
			l.backends.Add(e.Backend.Addr(), e.Len())
		}
		added := random()
		var c portset.Change
		for part, have := range l.mappings.Split(added) {
			if have == nil {
				c.Added = append(c.Added, part)
			} else {
				c.Moved = append(c.Moved, portset.Move{Frontend: part.Frontend, From: *have, To: part.Target, More: part.More})
			}
		}
		layout, err := l.mappings.Plan(&c)
		require.NoError(t, err)
		after := l.mappings.Clone()
		after.Do(layout)
		disagrees := false
		for p := range c.After {
			for one := range p.Singles {
				for e := range after.Entries {
					for other := range e.Singles {
						disagrees = disagrees || e.Kind != portset.EntryHole && disagree(one, other)
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
		l.options.Do(layout)
		want := portset.NewOptions()
		for e := range after.Entries {
			want.Count(&e, 1)
		}
		require.Equal(t, want, l.options)
	}
	require.NotZero(t, refused)
}
