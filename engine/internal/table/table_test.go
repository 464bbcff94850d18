// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nfttest"
	"github.com/nftnat/nftnat/nft"
)

// rules is a table with a set and a chain.
func rules() nft.Table {
	return nft.Table{
		Name: "t", Comment: "test 1",
		Sets:   []nft.Set{{Name: "s", Key: nft.Type{nft.IPv4Addr}}},
		Chains: []nft.Chain{{Name: "c"}},
	}
}

func element(addr string) nft.Element {
	return nft.Element{Set: "s", Key: nft.AddrKey(netip.MustParseAddr(addr))}
}

func open(tb testing.TB, k *nfttest.Kernel) *Table {
	tb.Helper()
	t := New(Config{
		Rules: rules(), Dial: func() (Kernel, error) { return k.Conn(), nil },
		CheckComment: func(string) error { return nil }, NoOwner: true, Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(tb, t.Open())
	require.NoError(tb, t.ChooseOwner())
	return t
}

func load(tb testing.TB, t *Table) Contents {
	tb.Helper()
	c, err := t.Load()
	require.NoError(tb, err)
	return c
}

func TestCreateLoadDelete(t *testing.T) {
	k := nfttest.New()
	a := open(t, k)
	require.Equal(t, Contents{}, load(t, a))
	require.NoError(t, a.Check(), "the first change is to create it")
	require.NoError(t, a.Create(nft.Change{Add: []nft.Element{element("192.0.2.1")}}))
	require.ErrorIs(t, a.Create(nft.Change{}), ErrConflict)
	b := open(t, k)
	c := load(t, b)
	require.True(t, c.Exists)
	require.Empty(t, c.Damage)
	require.Equal(t, []nft.Element{element("192.0.2.1")}, c.Elements)
	require.Equal(t, a.Handle(), c.Handle)
	is, err := a.Identity()
	require.NoError(t, err)
	require.Equal(t, is, b.Loaded())
	require.False(t, b.Copied())
	b.Accept(c)
	b.SetPresent()
	require.NoError(t, b.Delete())
	require.ErrorIs(t, a.Check(), fs.ErrNotExist)
}

// A change that does not fit the kernel is a conflict; any other failure makes the table stale,
// since the change may have been made.
func TestUpdateErrors(t *testing.T) {
	k := nfttest.New()
	a := open(t, k)
	require.NoError(t, a.Create(nft.Change{}))
	add := nft.Change{Add: []nft.Element{element("192.0.2.1")}}
	require.NoError(t, a.Update(add))
	require.ErrorIs(t, a.Update(add), ErrConflict)
	require.False(t, a.Stale())
	lost := errors.New("lost")
	k.FailNext("Update", lost)
	err := a.Update(nft.Change{Add: []nft.Element{element("192.0.2.2")}})
	require.ErrorIs(t, err, lost)
	require.NotErrorIs(t, err, ErrConflict)
	require.True(t, a.Stale())
	require.Equal(t, Counts{Changes: 1}, a.Counts())
	a.SetCurrent(true)
	require.False(t, a.Stale())
}

// Rewrite repairs in place what can be repaired, and recreates the table else.
func TestRewrite(t *testing.T) {
	want := []nft.Element{element("192.0.2.1"), element("192.0.2.2")}
	for name, tt := range map[string]struct {
		damage  func(k *nfttest.Kernel)
		inPlace bool
	}{
		"a chain more": {inPlace: true, damage: func(k *nfttest.Kernel) {
			k.Edit(func(ts map[string]*nfttest.Table) { ts["t"].Chains = append(ts["t"].Chains, nft.Chain{Name: "x"}) })
		}},
		"another comment": {damage: func(k *nfttest.Kernel) {
			k.Edit(func(ts map[string]*nfttest.Table) { ts["t"].Comment = "test 0" })
		}},
		"flushed": {damage: func(k *nfttest.Kernel) { k.Flush() }},
	} {
		t.Run(name, func(t *testing.T) {
			k := nfttest.New()
			a := open(t, k)
			require.NoError(t, a.Create(nft.Change{Add: want}))
			whole, handle := k.Dump(), a.Handle()
			tt.damage(k)
			c := load(t, a)
			require.NotEmpty(t, c.Damage.Lines)
			require.Equal(t, tt.inPlace, !c.Damage.Recreate)
			require.NoError(t, a.Rewrite(c, want))
			require.Equal(t, whole, k.Dump())
			require.Equal(t, tt.inPlace, handle == a.Handle())
			require.Equal(t, 1, a.Counts().Repaired)
			require.Empty(t, load(t, a).Damage)
		})
	}
}

func TestSameElement(t *testing.T) {
	want := element("192.0.2.1")
	require.True(t, sameElement(want, want))
	have := want
	have.Comment = "x"
	require.False(t, sameElement(have, want))
	want.Timeout = 10 * ExpiryTolerance
	require.False(t, sameElement(element("192.0.2.1"), want), "it does not end")
	have = want
	have.Expires = want.Timeout - ExpiryTolerance
	require.True(t, sameElement(have, want))
	have.Expires--
	require.False(t, sameElement(have, want))
}

// Only what can be deleted for sure is deleted in place.
func TestDeletable(t *testing.T) {
	segment := func(p string) nft.Element {
		return nft.Element{Set: "s", Key: nft.PrefixKey(netip.MustParsePrefix(p))}
	}
	gone := []nft.Element{segment("192.0.2.0/25")}
	require.NoError(t, deletable(gone, []nft.Element{segment("192.0.2.128/25")}))
	require.ErrorContains(t, deletable(gone, []nft.Element{segment("192.0.2.0/24")}), "overlaps")
	require.ErrorContains(t, deletable([]nft.Element{{Set: "s"}}, nil), "no key")
}
