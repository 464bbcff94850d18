// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// The tests of this file own tables, on a kernel that lets them.

func owned() Table {
	t := sample()
	t.Flags = TableOwned
	return t
}

// owner is a connection to a namespace of the test's own, whose kernel has owners.
func owner(tb testing.TB) (*Conn, *lab.NS) {
	tb.Helper()
	c, ns := kernel(tb)
	can, err := c.Owns()
	require.NoError(tb, err)
	if !can {
		tb.Skip("needs a kernel with persistent owned tables (6.9)")
	}
	return c, ns
}

// TestOwns: asking changes nothing, with or without the privilege.
func TestOwns(t *testing.T) {
	c, ns := owner(t)
	before, err := c.Generation()
	require.NoError(t, err)
	for range 3 {
		can, err := c.Owns()
		require.NoError(t, err)
		require.True(t, can)
	}
	after, err := c.Generation()
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.Empty(t, labtest.Exec(t, ns, "nft", "list", "ruleset"))
}

// TestOwnedTableIsRefused: nothing that others try changes it, and all can read it.
func TestOwnedTableIsRefused(t *testing.T) {
	c, ns := owner(t)
	es := ports(50, "web")
	require.NoError(t, c.Replace(owned(), es, 0))
	labtest.ExecInput(t, ns, "table inet other { chain c {}; }", "nft", "-f", "-")
	info, err := c.Table("nftnat")
	require.NoError(t, err)
	require.Equal(t, TableInfo{Comment: "a sample", Flags: TableOwned, Handle: info.Handle, Mine: true}, info)

	labtest.Exec(t, ns, "nft", "flush", "ruleset") // which passes over it
	require.NotContains(t, labtest.Exec(t, ns, "nft", "list", "tables"), "other")
	for _, line := range []string{
		"delete table inet nftnat", "flush table inet nftnat", "flush chain inet nftnat publish",
		"add rule inet nftnat publish accept", "add element inet nftnat tcp4 { 99 : 192.0.2.1 . 1 }",
		"delete element inet nftnat tcp4 { 1 }", "flush map inet nftnat tcp4", "add chain inet nftnat x",
		"add table inet nftnat { flags dormant; }",
	} {
		r := runNFT(t, ns, line)
		require.NotZero(t, r.Code, line)
		require.Contains(t, r.Stderr, "Operation not permitted", line)
	}
	other := dialIn(t, ns)
	for name, err := range map[string]error{
		"replace":    other.Replace(sample(), nil, 0),
		"own":        other.Replace(owned(), nil, 0),
		"restore":    other.Restore(owned(), nil, info.Handle),
		"restore it": other.Restore(owned(), nil, 0),
		"update":     other.Update(sample(), Change{Delete: es[:1]}),
		"claim":      other.Claim("nftnat", 0),
		"delete":     other.DeleteTable("nftnat"),
	} {
		require.ErrorIs(t, err, fs.ErrPermission, name)
	}
	require.Equal(t, info.Handle, mustTable(t, other).Handle)
	require.False(t, mustTable(t, other).Mine)
	got, _, err := other.Elements(sample(), "tcp4")
	require.NoError(t, err)
	require.Equal(t, sorted(es), sorted(got))
	drift, err := other.Drift(owned())
	require.NoError(t, err)
	require.Empty(t, drift)
}

func mustTable(tb testing.TB, c *Conn) TableInfo {
	tb.Helper()
	info, err := c.Table("nftnat")
	require.NoError(tb, err)
	return info
}

// TestOwnerChangesItsTable: what the owner can do to a table that is not owned.
func TestOwnerChangesItsTable(t *testing.T) {
	c, _ := owner(t)
	es := ports(50, "web")
	for range 2 {
		require.NoError(t, c.Replace(owned(), es[:1], 0))
	}
	require.NoError(t, c.Update(owned(), Change{Delete: es[:1], Add: es[1:]}))
	drift, err := c.Drift(sample())
	require.NoError(t, err)
	require.Equal(t, []string{`table nftnat has the flags "owner,persist", not ""`}, texts(drift))
	require.NoError(t, c.Claim("nftnat", 0), "again")
	require.NoError(t, c.Replace(sample(), es, 0), "it can be given up")
	require.Zero(t, mustTable(t, c).Flags)
	require.ErrorIs(t, c.Claim("nftnat", 0), errors.ErrUnsupported, "a plain table can only be replaced")
	require.NoError(t, c.Replace(owned(), es, 0))
	require.NoError(t, c.DeleteTable("nftnat"))
	require.ErrorIs(t, c.Claim("nftnat", 0), fs.ErrNotExist)
}

// TestOrphan: the table outlives its owner, is open to all, and can be claimed.
func TestOrphan(t *testing.T) {
	c, ns := owner(t)
	es := ports(50, "web")
	es[0].Timeout = time.Hour
	require.NoError(t, c.Replace(owned(), es, 0))
	handle := mustTable(t, c).Handle
	next := dialIn(t, ns)
	require.NoError(t, c.Close())
	require.Equal(t, TableInfo{Comment: "a sample", Flags: TablePersist, Handle: handle}, mustTable(t, next))

	labtest.Exec(t, ns, "nft", "add", "element", "inet", "nftnat", "tcp4", "{ 99 : 192.0.2.1 . 1 }")
	generation, err := next.Generation()
	require.NoError(t, err)
	require.ErrorIs(t, next.Claim("nftnat", generation-1), ErrStale)
	require.NoError(t, next.Claim("nftnat", generation))
	require.Equal(t, TableInfo{Comment: "a sample", Flags: TableOwned, Handle: handle, Mine: true}, mustTable(t, next))
	got, _, err := next.Elements(owned(), "tcp4")
	require.NoError(t, err)
	require.Len(t, got, len(es)+1)
	require.NotZero(t, runNFT(t, ns, "delete table inet nftnat").Code)

	// A second claim is refused, and takes nothing from the first.
	late := dialIn(t, ns)
	require.ErrorIs(t, late.Claim("nftnat", 0), fs.ErrPermission)
	require.True(t, mustTable(t, next).Mine)
	require.NoError(t, next.Close())
	labtest.Exec(t, ns, "nft", "flush", "ruleset")
	_, err = late.Table("nftnat")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// TestRestore: it is for one table, or for none.
func TestRestore(t *testing.T) {
	c, ns := kernel(t)
	es := ports(50, "web")
	require.NoError(t, c.Restore(sample(), es, 0))
	require.Equal(t, sample().String(), withoutElements(list(t, ns, "nftnat")))
	handle := mustTable(t, c).Handle
	require.ErrorIs(t, c.Restore(sample(), nil, 0), ErrStale)
	require.ErrorIs(t, c.Restore(sample(), nil, handle+1), ErrStale)
	labtest.Exec(t, ns, "nft", "flush", "chain", "inet", "nftnat", "publish")
	require.NoError(t, c.Restore(sample(), es, handle))
	require.Equal(t, sample().String(), withoutElements(list(t, ns, "nftnat")))
	require.ErrorIs(t, c.Restore(sample(), es, handle), ErrStale, "it is another by now")
	require.NoError(t, c.DeleteTable("nftnat"))
	require.ErrorIs(t, c.Restore(sample(), es, handle), ErrStale)
	_, err := c.Table("nftnat")
	require.ErrorIs(t, err, fs.ErrNotExist)
	full := append(ports(2, ""), ports(1, "")...)
	require.ErrorIs(t, c.Restore(sample(), full, 0), unix.EEXIST)
	require.NotErrorIs(t, c.Restore(sample(), full, 0), ErrStale)
	require.Error(t, c.Restore(Table{Name: "no name"}, nil, 0))
}

// withoutElements takes the elements out of what nft(8) lists.
func withoutElements(listed string) string {
	head, tail, found := strings.Cut(listed, "\t\telements = {")
	if !found {
		return listed
	}
	_, tail, _ = strings.Cut(tail, "}\n")
	return head + withoutElements(tail)
}

// TestOwnedListsAsWritten: but for who owns it, and the flag that nft(8) may not know.
func TestOwnedListsAsWritten(t *testing.T) {
	c, ns := owner(t)
	require.NoError(t, c.Replace(owned(), nil, 0))
	listed := list(t, ns, "nftnat")
	first, rest, _ := strings.Cut(listed, "\n")
	require.Regexp(t, `^table inet nftnat \{ # progname .+$`, first)
	_, want, _ := strings.Cut(owned().String(), "\n")
	if !strings.Contains(rest, "persist") { // nft 1.0.6 does not know it
		want = strings.Replace(want, ",persist", "", 1)
	}
	require.Equal(t, want, rest)
}
