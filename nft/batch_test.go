// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// read takes a batch apart, as the kernel does.
func read(tb testing.TB, b []byte) []nlwire.Message {
	tb.Helper()
	var ms []nlwire.Message
	w := nlwire.Messages{Data: b}
	for w.Next() {
		ms = append(ms, w.Message)
	}
	require.NoError(tb, w.Err)
	return ms
}

// requireFramed holds what is true of every batch: it begins and ends, its sequence
// numbers follow on, and the last operation alone asks for an answer.
func requireFramed(t *testing.T, b *batch) []nlwire.Message {
	t.Helper()
	ms := read(t, b.buf)
	require.Len(t, ms, len(b.ops)+2)
	last := len(ms) - 1
	require.Equal(t, uint16(unix.NFNL_MSG_BATCH_BEGIN), ms[0].Type)
	require.Equal(t, uint16(unix.NFNL_MSG_BATCH_END), ms[last].Type)
	for i, m := range ms {
		require.Equal(t, b.seq+uint32(i), m.Seq)
		require.NotZero(t, m.Flags&unix.NLM_F_REQUEST)
		require.Equal(t, i == last-1, m.Flags&unix.NLM_F_ACK != 0, "nlwire.Message %d of %d", i, last)
		if i != 0 && i != last {
			o, ok := b.op(m.Seq)
			require.True(t, ok)
			require.Equal(t, b.ops[i-1].object, o.object)
			require.Equal(t, uint16(unix.NFNL_SUBSYS_NFTABLES), m.Type>>8)
			require.Equal(t, byte(unix.NFPROTO_INET), m.Payload[0])
		} else {
			require.Equal(t, uint16(unix.NFNL_SUBSYS_NFTABLES), binary.BigEndian.Uint16(m.Payload[2:]))
		}
	}
	for _, seq := range []uint32{0, b.seq - 1, b.seq, b.lastSeq() + 1, b.lastSeq() + 2, 1<<32 - 1} {
		_, ok := b.op(seq)
		require.False(t, ok, seq)
	}
	return ms
}

// elementsOf decodes all elements in a batch, and holds the bounds of attributes.
func elementsOf(t *testing.T, table Table, ms []nlwire.Message) []Element {
	t.Helper()
	var es []Element
	for _, m := range ms {
		if m.Type != nftType(unix.NFT_MSG_NEWSETELEM) && m.Type != nftType(unix.NFT_MSG_DELSETELEM) {
			continue
		}
		a := m.Attrs(nlwire.NetfilterHeader)
		set := named(table, unix.ByteSliceToString(nlwire.Find(a.Data, unix.NFTA_SET_ELEM_LIST_SET)))
		require.Equal(t, table.Name, unix.ByteSliceToString(nlwire.Find(a.Data, unix.NFTA_SET_ELEM_LIST_TABLE)))
		if m.Type == nftType(unix.NFT_MSG_DELSETELEM) {
			set.Value = nil
		}
		list := nlwire.Attrs{Data: nlwire.Find(a.Data, unix.NFTA_SET_ELEM_LIST_ELEMENTS)}
		require.NotEmpty(t, list.Data)
		require.LessOrEqual(t, len(list.Data)+nlwire.AttrHeader, nlwire.MaxAttr)
		for key, end := set.next(&list); key != nil; key, end = set.next(&list) {
			var e Element
			require.NoError(t, set.decodeNext(&e, key, end))
			es = append(es, e)
		}
		require.NoError(t, list.Err)
	}
	return es
}

func TestBatchOfManyElements(t *testing.T) {
	table, es := sample(), ports(60000, strings.Repeat("c", maxComment))
	for i := range es {
		es[i].Timeout = time.Hour
	}
	b := newBatch(5, 0)
	b.addElements(table, es)
	b.finish()
	ms := requireFramed(t, b)
	require.Equal(t, es, elementsOf(t, table, ms))
	// Lists are filled: each nlwire.Message costs the kernel a look-up of its own.
	total := 0
	for _, m := range ms {
		total += len(m.Payload)
	}
	require.Less(t, len(ms), 2+total/(nlwire.MaxAttr-2*largestElement)+1)
	for _, m := range ms[1 : len(ms)-1] {
		require.Equal(t, uint16(unix.NLM_F_CREATE|unix.NLM_F_EXCL), m.Flags&^(unix.NLM_F_REQUEST|unix.NLM_F_ACK))
	}
}

func TestBatchOfMixedElements(t *testing.T) {
	r, table := newRand(t), sample()
	for _, n := range []int{1, 2, 3000} {
		cs := holdable(table)
		var es []Element
		for len(es) < n {
			c := cs[r.IntN(len(cs))]
			for range r.IntN(100) {
				es = append(es, randomElement(r, c))
			}
		}
		b := newBatch(1, 0)
		b.addElements(table, es)
		b.finish()
		require.Equal(t, es, elementsOf(t, table, requireFramed(t, b)))

		b = newBatch(1<<31, 0)
		b.deleteElements(table, es)
		b.addElements(table, es[:1])
		b.finish()
		got := elementsOf(t, table, requireFramed(t, b))
		for i, e := range es {
			require.Equal(t, Element{Set: e.Set, Key: e.Key}, got[i])
		}
		require.Equal(t, es[0], got[len(es)])
	}
}

func TestBatchGeneration(t *testing.T) {
	for _, generation := range []uint32{0, 1, 1<<32 - 1} {
		b := newBatch(1, generation)
		b.deleteTable("t", 0)
		b.finish()
		id := nlwire.Find(requireFramed(t, b)[0].Attrs(nlwire.NetfilterHeader).Data, unix.NFNL_BATCH_GENID)
		if generation == 0 {
			require.Nil(t, id)
			continue
		}
		require.Equal(t, generation, binary.BigEndian.Uint32(id))
	}
}

// TestBatchSetIdentifiers: the kernel wants each set of a batch to have its own.
func TestBatchSetIdentifiers(t *testing.T) {
	b := newBatch(1, 0)
	seen := map[uint32]bool{0: true}
	for _, c := range sample().Sets {
		b.addSet("t", c)
	}
	b.finish()
	for _, m := range requireFramed(t, b) {
		if m.Type == nftType(unix.NFT_MSG_NEWSET) {
			id := binary.BigEndian.Uint32(nlwire.Find(m.Attrs(nlwire.NetfilterHeader).Data, unix.NFTA_SET_ID))
			require.False(t, seen[id])
			seen[id] = true
		}
	}
	require.Len(t, seen, len(sample().Sets)+1)
}

// TestElementAtOffset points at each byte of messages as the kernel's offsets do.
func TestElementAtOffset(t *testing.T) {
	table := sample()
	es := ports(100, "web")
	es[50].Timeout = time.Hour
	b := newBatch(1, 0)
	b.deleteElements(table, es)
	b.addElements(table, es)
	b.finish()
	for i, want := range [][]string{keysOnly(es), sorted(es)} {
		o := b.ops[i]
		msg := b.buf[o.at:]
		msg = msg[:binary.NativeEndian.Uint32(msg)]
		begin := uint32(len(msg) - len(nlwire.Find(msg[(nlwire.MessageHeader+nlwire.NetfilterHeader):], unix.NFTA_SET_ELEM_LIST_ELEMENTS)))
		named := map[string]int{}
		for offset := begin; offset < uint32(len(msg)); offset++ {
			named[b.refusedElement(o, offset)]++
		}
		require.Len(t, named, len(es))
		for _, e := range want {
			require.NotZero(t, named[e], e)
		}
		// Nothing told, or something that cannot be.
		require.Equal(t, "tcp4: one of 100 elements", b.refusedElement(o, 0))
		require.Equal(t, "tcp4: one of 100 elements", b.refusedElement(o, uint32(len(msg))))
		require.Equal(t, "tcp4: one of 100 elements", b.refusedElement(o, 1<<32-1))
		// The table or the set is the refusedElement.
		require.Equal(t, "tcp4", b.refusedElement(o, (nlwire.MessageHeader+nlwire.NetfilterHeader)))
		require.Equal(t, "tcp4", b.refusedElement(o, begin-nlwire.AttrHeader-1))
	}
	// A lone element is the refusedElement also where the kernel tells nothing.
	b = newBatch(1, 0)
	b.addElements(table, es[:1])
	b.finish()
	require.Equal(t, es[0].String(), b.refusedElement(b.ops[0], 0))
	require.EqualError(t, b.failure(b.ops[0], nlwire.Answer{Errno: unix.EEXIST, Text: "twice"}),
		`add element tcp4 { 1 comment "web" : 172.17.0.2 . 80 }: file exists (twice)`)
}

func keysOnly(es []Element) []string {
	bare := make([]Element, len(es))
	for i, e := range es {
		bare[i] = Element{Set: e.Set, Key: e.Key}
	}
	return sorted(bare)
}

func TestBatchObjects(t *testing.T) {
	table := sample()
	b := newBatch(1, 0)
	b.addTable(table.Name, table.Comment, "", 0)
	b.addSet(table.Name, table.Sets[0])
	b.addSet(table.Name, named(table, "inside4"))
	b.addChain(table.Name, table.Chains[0])
	require.NoError(t, b.addRule(table.Name, "publish", table.Chains[0].Rules[0]))
	b.deleteTable(table.Name, 0)
	b.finish()
	requireFramed(t, b)
	var got []string
	for _, o := range b.ops {
		got = append(got, b.failure(o, nlwire.Answer{Errno: unix.EPERM}).Error())
	}
	require.Equal(t, []string{
		"add table inet nftnat: operation not permitted",
		"add map tcp4: operation not permitted",
		"add set inside4: operation not permitted",
		"add chain publish: operation not permitted",
		"add rule publish { ip6 saddr fe80::/10 return }: operation not permitted",
		"delete table inet nftnat: operation not permitted",
	}, got)
}

// TestSequenceNumbers never hand out zero, which is that of notifications.
func TestSequenceNumbers(t *testing.T) {
	c := &Conn{seq: 1<<31 - 2}
	last := uint32(0)
	for range 10 {
		first := c.nextSeq(1000)
		require.NotZero(t, first)
		require.Less(t, first, uint32(1<<31+1))
		require.NotEqual(t, last, first)
		last = first
	}
}

func TestAddressesAreNotConfused(t *testing.T) {
	// An IPv4 address in 16 bytes would have the length of an IPv6 one.
	table := sample()
	mapped := netip.MustParseAddr("::ffff:192.0.2.1")
	e := Element{Set: "tcp6", Key: PortKey(1), Value: netip.AddrPortFrom(mapped, 1)}
	require.Error(t, Change{Add: []Element{e}}.Validate(table))
	e.Value = netip.AddrPortFrom(mapped.Unmap(), 1)
	require.Error(t, Change{Add: []Element{e}}.Validate(table))
}
