// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// many is as many mappings as one map is meant for.
const many = 60000

func BenchmarkEncodeElements(b *testing.B) {
	table, es := sample(), ports(many, "")
	b.ReportAllocs()
	for b.Loop() {
		batch := newBatch(1, 0)
		batch.addElements(table, es)
		batch.finish()
	}
}

// BenchmarkDecodeElements decodes what a dump holds, without a kernel.
func BenchmarkDecodeElements(b *testing.B) {
	table, es := sample(), ports(many, "")
	batch := newBatch(1, 0)
	batch.addElements(table, es)
	batch.finish()
	set := named(table, "tcp4")
	b.ReportAllocs()
	for b.Loop() {
		got := make([]Element, 0, many)
		var e Element
		for m := (nlwire.Messages{Data: batch.buf}); m.Next(); {
			for list := (nlwire.Attrs{Data: nlwire.Find(m.Attrs(nlwire.NetfilterHeader).Data, unix.NFTA_SET_ELEM_LIST_ELEMENTS)}); list.Next(); {
				if err := set.decodeElement(&e, list.Payload); err != nil {
					b.Fatal(err)
				}
				got = append(got, e)
			}
		}
		if len(got) != many {
			b.Fatalf("%d elements", len(got))
		}
	}
}

func BenchmarkReplace(b *testing.B) {
	c, _ := kernel(b)
	table, es := sample(), ports(many, "")
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, c.Replace(table, es, 0))
	}
}

// BenchmarkUpdate adds one element and deletes it again: two transactions.
func BenchmarkUpdate(b *testing.B) {
	for _, there := range []int{0, many} {
		b.Run(fmt.Sprintf("into=%d", there), func(b *testing.B) {
			c, _ := kernel(b)
			table := sample()
			require.NoError(b, c.Replace(table, ports(there, ""), 0))
			one := []Element{ports(many+1, "")[many]}
			b.ReportAllocs()
			for b.Loop() {
				require.NoError(b, c.Update(table, Change{Add: one}))
				require.NoError(b, c.Update(table, Change{Delete: one}))
			}
		})
	}
}

func BenchmarkElements(b *testing.B) {
	c, _ := kernel(b)
	table := sample()
	require.NoError(b, c.Replace(table, ports(many, ""), 0))
	b.ReportAllocs()
	for b.Loop() {
		es, _, err := c.Elements(table, "tcp4")
		require.NoError(b, err)
		require.Len(b, es, many)
	}
}

// BenchmarkRawDump is what BenchmarkElements is measured against: a dump into a map,
// which trusts the kernel in everything.
func BenchmarkRawDump(b *testing.B) {
	c, _ := kernel(b)
	require.NoError(b, c.Replace(sample(), ports(many, ""), 0))
	b.ReportAllocs()
	for b.Loop() {
		all := map[uint16]netip.AddrPort{}
		seq, err := c.sendRequest(unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, "nftnat", "tcp4")
		require.NoError(b, err)
		for done := false; !done; {
			n, err := c.socket.Receive(c.buf, false)
			require.NoError(b, err)
			for m := (nlwire.Messages{Data: c.buf[:n]}); m.Next(); {
				done = done || m.Seq == seq && m.Type == unix.NLMSG_DONE
				rawElements(all, nlwire.Find(m.Payload[4:], unix.NFTA_SET_ELEM_LIST_ELEMENTS))
			}
		}
		require.Len(b, all, many)
	}
}

// rawElements knows where in an element the key and the value stand.
func rawElements(all map[uint16]netip.AddrPort, list []byte) {
	for len(list) > 0 {
		n := int(binary.NativeEndian.Uint16(list))
		e := list[nlwire.AttrHeader:n]
		addr := netip.AddrFrom4([4]byte(e[20:24]))
		all[binary.BigEndian.Uint16(e[8:])] = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(e[24:]))
		list = list[padded(n):]
	}
}
