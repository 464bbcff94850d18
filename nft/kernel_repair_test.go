// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"errors"
	"io/fs"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func prefixIn(set, prefix string) Element {
	return Element{Set: set, Key: PrefixKey(netip.MustParsePrefix(prefix))}
}

// handles are those of the table's sets, maps and chains, by nft(8).
func handles(tb testing.TB, ns *lab.NS) (lines []string) {
	tb.Helper()
	named := regexp.MustCompile(`^\t(?:map|set|chain) \S+ \{.*# handle \d+$`)
	for line := range strings.Lines(labtest.Exec(tb, ns, "nft", "-a", "list", "table", "inet", "nftnat")) {
		if line = strings.TrimRight(line, "\n"); named.MatchString(line) {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

// TestRepairKeeps: what is right in a table stays, by its handle, while all that is not is
// put right in one transaction.
func TestRepairKeeps(t *testing.T) {
	c, ns := kernel(t)
	es := append(ports(3000, "web"), prefixIn("networks4", "10.0.0.0/8"), prefixIn("networks6", "fd00::/8"),
		Element{Set: "inside4", Key: PairKey(netip.MustParsePrefix("10.0.0.0/8"))},
		Element{Set: "leases6", Key: AddrKey(netip.MustParseAddr("fd00::2")), Timeout: time.Hour})
	require.NoError(t, c.Replace(sample(), es, 0))
	info, clean, before := mustTable(t, c), list(t, ns, "nftnat"), handles(t, ns)
	labtest.ExecInput(t, ns, `flush table inet nftnat
		add chain inet nftnat mine
		add chain inet nftnat theirs { type filter hook input priority 0; policy drop; }
		add map inet nftnat verdicts { type ipv4_addr : verdict; }
		add element inet nftnat verdicts { 10.0.0.9 : jump mine, 10.0.0.8 : goto publish }
		add set inet nftnat seen { type ipv4_addr; flags dynamic; timeout 1h; }
		add rule inet nftnat mine update @seen { ip saddr } counter
		add rule inet nftnat theirs ip daddr { 10.0.0.1, 10.0.0.2-10.0.0.7 } jump mine
		add rule inet nftnat theirs ip daddr vmap @verdicts
		add rule inet nftnat theirs ip daddr vmap { 10.1.0.0/16 : jump publish }
		add rule inet nftnat publish tcp dport 80 jump { accept; }
		delete element inet nftnat tcp4 { 1 }; delete element inet nftnat networks4 { 10.0.0.0/8 }
		add element inet nftnat networks4 { 10.1.0.0/16 }; add element inet nftnat tcp4 { 9999 : 192.0.2.1 . 1 }
		`, "nft", "-f", "-")
	generation, err := c.Generation()
	require.NoError(t, err)
	require.NoError(t, c.Repair(sample(), Change{
		Delete: []Element{prefixIn("networks4", "10.1.0.0/16"), {Set: "tcp4", Key: PortKey(9999)}},
		Add:    []Element{es[0], prefixIn("networks4", "10.0.0.0/8")},
	}, info.Handle))
	after, err := c.Generation()
	require.NoError(t, err)
	require.Equal(t, generation+1, after)
	require.Equal(t, before, handles(t, ns))
	require.Equal(t, info, mustTable(t, c))
	require.Equal(t, withoutElements(clean), withoutElements(list(t, ns, "nftnat")))
	have, _, err := c.Elements(sample(), "tcp4", "networks4", "networks6", "inside4", "leases6")
	require.NoError(t, err)
	require.Equal(t, sorted(es), sorted(have))
}

// TestRepairAddsSets: a set that was deleted comes with its elements.
func TestRepairAddsSets(t *testing.T) {
	c, ns := kernel(t)
	require.NoError(t, c.Replace(sample(), ports(5, "web"), 0))
	labtest.ExecInput(t, ns, "flush table inet nftnat; delete map inet nftnat tcp4; delete set inet nftnat inside4", "nft", "-f", "-")
	inside := Element{Set: "inside4", Key: PairKey(netip.MustParsePrefix("10.0.0.0/8"))}
	require.NoError(t, c.Repair(sample(), Change{Add: append(ports(9, "new"), inside)}, mustTable(t, c).Handle))
	drift, err := c.Drift(sample())
	require.NoError(t, err)
	require.Empty(t, drift)
	have, _, err := c.Elements(sample(), "tcp4", "inside4")
	require.NoError(t, err)
	require.Equal(t, sorted(append(ports(9, "new"), inside)), sorted(have))
}

// TestRepairRefuses what it is not for, and nothing has changed then.
func TestRepairRefuses(t *testing.T) {
	c, ns := kernel(t)
	require.ErrorIs(t, c.Repair(sample(), Change{}, 1), ErrStale, "there is none")
	require.NoError(t, c.Replace(sample(), ports(2, ""), 0))
	handle := mustTable(t, c).Handle
	commented, flagged, element := sample(), sample(), ports(1, "")
	commented.Comment, flagged.Flags = "another sample", TableOwned
	for _, tt := range []struct {
		name, script string
		table        Table
		change       Change
		handle       uint64
		want         error
	}{
		{"another handle", "", sample(), Change{}, handle + 1, ErrStale},
		{"a generation of before", "", sample(), Change{Generation: 1}, handle, ErrStale},
		{"another comment", "", commented, Change{}, handle, ErrNotRepairable},
		{"other flags", "", flagged, Change{}, handle, ErrNotRepairable},
		{"a key that is there", "", sample(), Change{Add: element}, handle, unix.EEXIST},
		{"a key that is not", "", sample(), Change{Delete: []Element{{Set: "tcp4", Key: PortKey(9)}}}, handle, fs.ErrNotExist},
		{"an object", "add counter inet nftnat theirs", sample(), Change{}, handle, ErrNotRepairable},
		{"no set", "", sample(), Change{Add: []Element{{Set: "nosuch", Key: PortKey(9)}}}, handle, nil},
		{"no table", "", Table{Name: "no name"}, Change{}, handle, nil},
	} {
		labtest.ExecInput(t, ns, tt.script, "nft", "-f", "-")
		before := labtest.Exec(t, ns, "nft", "-a", "list", "ruleset")
		err := c.Repair(tt.table, tt.change, tt.handle)
		require.Error(t, err, tt.name)
		if tt.want != nil {
			require.ErrorIs(t, err, tt.want, tt.name)
		}
		require.Equal(t, before, labtest.Exec(t, ns, "nft", "-a", "list", "ruleset"), tt.name)
	}
}

// TestRepairOwned: an owner repairs its table, and nobody else does. One that was turned off
// before it was owned is on with the claim.
func TestRepairOwned(t *testing.T) {
	c, ns := owner(t)
	require.NoError(t, c.Replace(owned(), ports(9, ""), 0))
	handle := mustTable(t, c).Handle
	require.ErrorIs(t, dialIn(t, ns).Repair(owned(), Change{}, handle), fs.ErrPermission)
	require.NoError(t, c.Close())
	load := func(script string) { labtest.ExecInput(t, ns, script, "nft", "-f", "-") }
	load("flush table inet nftnat; add chain inet nftnat mine")
	next := dialIn(t, ns)
	require.ErrorIs(t, next.Repair(owned(), Change{}, handle), ErrNotRepairable, "an orphan has other flags")
	require.NoError(t, next.Claim("nftnat", 0))
	require.NoError(t, next.Repair(owned(), Change{Delete: ports(1, "")}, handle))
	drift, err := next.Drift(owned())
	require.NoError(t, err)
	require.Empty(t, drift)
	require.True(t, mustTable(t, next).Mine)
	// As nf_tables_updtable has it, which repairable takes for granted.
	b := newBatch(next.nextSeq(1), 0)
	b.setFlags("claim table", "nftnat", TableOwned|TableDormant)
	require.ErrorIs(t, next.commit(b, nil), errors.ErrUnsupported)
}
