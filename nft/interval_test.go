// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// bounds are elements of a set as a dump has them: "+" begins a range, "-" ends one.
func bounds(t *testing.T, c Set, places ...string) []Element {
	t.Helper()
	var es []Element
	for _, s := range places {
		e := Element{Set: c.Name, Key: keyOf(startKey, netip.MustParseAddr(s[1:]), 0)}
		if s[0] == '-' {
			e.Key.kind = endKey
		} else {
			e.Comment = s[1:]
		}
		es = append(es, e)
	}
	return es
}

func TestPair(t *testing.T) {
	for _, tt := range []struct {
		name, set string
		bounds    []string
		want      []string
	}{
		{"nothing", "networks4", nil, nil},
		{"one", "networks4", []string{"+10.0.0.0", "-10.0.1.0"}, []string{`10.0.0.0/24 comment "10.0.0.0"`}},
		{
			"beside each other", "networks4",
			[]string{"+10.0.0.0", "-10.0.1.0", "+10.0.1.0", "-10.0.2.0", "+10.0.2.0", "-10.0.2.1"},
			[]string{`10.0.0.0/24 comment "10.0.0.0"`, `10.0.1.0/24 comment "10.0.1.0"`, `10.0.2.0 comment "10.0.2.0"`},
		},
		{"all", "networks4", []string{"+0.0.0.0"}, []string{`0.0.0.0/0 comment "0.0.0.0"`}},
		{
			"both halves", "networks6", []string{"+::", "-8000::", "+8000::"},
			[]string{`8000::/1 comment "8000::"`, `::/1 comment "::"`},
		},
		{
			"the ends", "networks4", []string{"+0.0.0.0", "-0.0.0.1", "+255.255.255.255"},
			[]string{`0.0.0.0 comment "0.0.0.0"`, `255.255.255.255 comment "255.255.255.255"`},
		},
		{
			"mark of nft(8)", "networks4", []string{"-0.0.0.0", "+10.0.0.0", "-11.0.0.0"},
			[]string{`10.0.0.0/8 comment "10.0.0.0"`},
		},
		{
			"mark of nft(8) and all", "networks6", []string{"-::", "+::"},
			[]string{`::/0 comment "::"`},
		},
		{"no prefix", "networks4", []string{"+10.0.0.1", "-10.0.0.9"}, []string{"the range from 10.0.0.1 to 10.0.0.8 is no prefix"}},
		{"no prefix at the end", "networks4", []string{"+192.0.0.1"}, []string{"the range from 192.0.0.1 to 255.255.255.255 is no prefix"}},
		{"not aligned", "networks4", []string{"+10.0.0.128", "-10.0.1.128"}, []string{"the range from 10.0.0.128 to 10.0.1.127 is no prefix"}},
		{
			"no end", "networks4", []string{"+10.0.0.0", "+10.0.1.0", "-10.0.2.0"},
			[]string{`10.0.1.0/24 comment "10.0.1.0"`, "the range from 10.0.0.0 has no end before that from 10.0.1.0"},
		},
		{
			"no beginning", "networks4", []string{"+10.0.0.0", "-10.0.1.0", "-10.0.2.0"},
			[]string{`10.0.0.0/24 comment "10.0.0.0"`, "the range up to 10.0.2.0 has no beginning"},
		},
		{"ended", "away4", []string{"+10.0.0.0", "-10.0.1.0", "-10.0.2.0"}, []string{`10.0.0.0/24 comment "10.0.0.0"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, r := named(sample(), tt.set), newRand(t)
			want := make([]string, len(tt.want))
			for i, w := range tt.want {
				want[i] = tt.set + " { " + w + " }"
			}
			for range 20 {
				es := bounds(t, c, tt.bounds...)
				r.Shuffle(len(es), func(i, j int) { es[i], es[j] = es[j], es[i] })
				got := c.pair(es)
				require.Equal(t, want, sorted(got))
				for _, e := range got {
					require.Equal(t, e.Foreign == "", e.Key != (Key{}))
					require.Equal(t, e.Foreign == "", c.checkKey(&e.Key) == nil)
				}
			}
		})
	}
	// What is strange already stays so.
	other := Element{Set: "networks4", Foreign: "a key of 0 bytes is no ipv4_addr"}
	c := named(sample(), "networks4")
	require.Len(t, c.pair(append(bounds(t, c, "+10.0.0.0", "-10.0.1.0"), other)), 2)
}

// TestMembers pins how a prefix is written: as nft(8) does.
func TestMembers(t *testing.T) {
	c := named(sample(), "networks4")
	e := Element{Set: "networks4", Key: PrefixKey(netip.MustParsePrefix("10.0.0.0/8")), Comment: "web"}
	list := nlwire.Attrs{Data: c.appendMember(nil, &e, (*Set).appendElement)}
	key, end := c.next(&list)
	address := func(b []byte) []byte {
		return nlwire.Find(nlwire.Find(b, unix.NFTA_SET_ELEM_KEY), unix.NFTA_DATA_VALUE)
	}
	require.Equal(t, []byte{10, 0, 0, 0}, address(key))
	require.Equal(t, "web", comment(nlwire.Find(key, unix.NFTA_SET_ELEM_USERDATA)))
	require.Nil(t, nlwire.Find(key, unix.NFTA_SET_ELEM_FLAGS))
	require.Equal(t, []byte{11, 0, 0, 0}, address(end))
	require.Equal(t, uint32(unix.NFT_SET_ELEM_INTERVAL_END), binary.BigEndian.Uint32(nlwire.Find(end, unix.NFTA_SET_ELEM_FLAGS)))
	require.Nil(t, nlwire.Find(end, unix.NFTA_SET_ELEM_USERDATA), "the kernel takes no comment with an end")
	key, end = c.next(&list)
	require.Nil(t, key)
	require.Nil(t, end)

	for _, p := range []string{"0.0.0.0/0", "128.0.0.0/1", "255.255.255.255/32"} {
		e.Key = PrefixKey(netip.MustParsePrefix(p))
		list := nlwire.Attrs{Data: c.appendMember(nil, &e, (*Set).appendElement)}
		key, end := c.next(&list)
		require.NotNil(t, key)
		require.Nil(t, end, "there is no address behind %s", p)
		require.Empty(t, list.Data)
	}
}

// TestPrefixAtOffset points at each byte of messages of which a prefix has two members.
func TestPrefixAtOffset(t *testing.T) {
	table := sample()
	es := networks("networks4", "0.0.0.0/8", "10.0.0.0/8", "11.0.0.0/16", "192.0.2.1/32", "224.0.0.0/3")
	b := newBatch(1, 0)
	b.deleteElements(table, es)
	b.addElements(table, es)
	b.finish()
	for i, want := range [][]string{keysOnly(es), sorted(es)} {
		o := b.ops[i]
		msg := b.buf[o.at:]
		msg = msg[:binary.NativeEndian.Uint32(msg)]
		begin := uint32(len(msg) - len(nlwire.Find(msg[(nlwire.MessageHeader+nlwire.NetfilterHeader):], unix.NFTA_SET_ELEM_LIST_ELEMENTS)))
		found := map[string]int{}
		for offset := begin; offset < uint32(len(msg)); offset++ {
			found[b.refusedElement(o, offset)]++
		}
		require.Len(t, found, len(es))
		for _, e := range want {
			require.NotZero(t, found[e], e)
		}
		require.Equal(t, "networks4: one of 5 elements", b.refusedElement(o, 0))
	}
	for _, e := range []Element{es[1], es[4]} {
		b = newBatch(1, 0)
		b.addElements(table, []Element{e})
		b.finish()
		require.Equal(t, e.String(), b.refusedElement(b.ops[0], 0), "a lone element is the refusedElement")
	}
}
