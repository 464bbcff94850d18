// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/engine/internal/segment"
	"github.com/nftnat/nftnat/internal/nfttest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// changes counts the transactions of an engine by their kind from here on.
func (b *testbed) changes() map[string]int {
	count := map[string]int{}
	b.kernel.After(func(op string) error {
		switch op {
		case "Repair", "Replace", "Restore", "Update":
			count[op]++
		}
		return nil
	})
	return count
}

// What differs, and nothing else, is written: whatever is wrong at once, in one
// transaction, and a time-out goes on as it was.
func TestRepairWritesWhatDiffers(t *testing.T) {
	e, b := openFake(t)
	fillTable(t, b, e)
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, leaseFor(t, b, "90->172.30.0.2:90", time.Hour))
	require.NoError(t, err)
	want, info := b.kernel.Dump(), b.table(t)
	b.clock.advance(time.Minute)
	b.edit(t, func(table *nfttest.Table) {
		damages()["no rules"](table)
		damages()["a set more"](table)
		table.Chains = append(table.Chains, nft.Chain{Name: "mine"})
		table.Elements = slices.DeleteFunc(table.Elements, func(el nft.Element) bool { return el.Set == "guarded4" })
		table.Elements = append(table.Elements, foreign("tcp4", "99", "172.30.0.2:99", "theirs"))
	})
	count := b.changes()
	e.core.table.MarkStale()
	_, err = e.State(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string]int{"Repair": 1}, count)
	require.Equal(t, want, b.kernel.Dump())
	require.Equal(t, info, b.table(t))
	requireConsistent(t, b, e)
}

// Another version of the same schema gives a table its own rules and sets, and leaves
// what is in it.
func TestRepairOfAnotherVersion(t *testing.T) {
	e, b := openFake(t)
	fillTable(t, b, e)
	want, info := b.kernel.Dump(), b.table(t)
	b.edit(t, func(table *nfttest.Table) {
		table.Chains[2].Rules = table.Chains[2].Rules[:1]
		table.Chains[3].Hook.Priority++
		table.Chains = append(table.Chains, nft.Chain{Name: "old"})
		damages()["a set more"](table)
		damages()["a map less"](table)
	})
	count := b.changes()
	e = b.open(t)
	require.Equal(t, map[string]int{"Repair": 1}, count)
	require.Equal(t, want, b.kernel.Dump())
	require.Equal(t, info, b.table(t))
	requireConsistent(t, b, e)
}

// What cannot be put right in the table is put right by another in its place.
func TestMadeAgain(t *testing.T) {
	wide := segment.Segment{Link: "br0", Prefix: netip.MustParsePrefix("172.16.0.0/12")}
	inner := segment.Segment{Link: "br0", Prefix: netip.MustParsePrefix("172.30.0.128/25")}
	for name, damage := range map[string]func(*testbed, *nfttest.Table){
		"a set of another type": func(_ *testbed, table *nfttest.Table) {
			i := slices.IndexFunc(table.Sets, func(s nft.Set) bool { return s.Name == "leases4" })
			table.Sets[i].Timeout = true
		},
		"a segment around others": func(_ *testbed, table *nfttest.Table) {
			damages()["no rules"](table)
			table.Elements = append(table.Elements, schema.SegmentElement(wide))
		},
		"a segment in another": func(_ *testbed, table *nfttest.Table) {
			table.Elements = append(table.Elements, schema.SegmentElement(inner))
		},
		"a refusal": func(b *testbed, table *nfttest.Table) {
			damages()["no rules"](table)
			b.kernel.FailNext("Repair", errors.New("no"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, b := openFake(t)
			fillTable(t, b, e)
			want, info := b.kernel.Dump(), b.table(t)
			b.edit(t, func(table *nfttest.Table) { damage(b, table) })
			e.core.table.MarkStale()
			_, err := e.State(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, b.kernel.Dump())
			require.NotEqual(t, info.Handle, b.table(t).Handle)
			require.Equal(t, 1, statusOf(t, e).Repaired)
			requireConsistent(t, b, e)
		})
	}
}
