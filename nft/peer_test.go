// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// delivery is one datagram that a socket receives, or the error it meets instead.
type delivery struct {
	data []byte
	err  error
}

// peer is a socket with a kernel at its other end that can be told to misbehave. It
// holds one table.
type peer struct {
	t          testing.TB
	generation uint32
	table      *Table // nil: there is none
	handle     uint64
	elements   []Element
	// parts is in how many parts a dump of elements comes; zero: in one.
	parts int
	// count is the number of elements that the kernel tells; negative: as many as
	// there are.
	count int

	// onBatch answers a transaction. The messages are those between begin and end.
	onBatch func(begin nlwire.Message, ops []nlwire.Message) []delivery
	// onDump, if set, may change the answer to a dump.
	onDump func(request nlwire.Message, answer []delivery) []delivery

	queue []delivery
	dumps int // of elements
}

// connect returns a connection to a peer that holds the table.
func connect(t *testing.T, table Table, es []Element) (*Conn, *peer) {
	t.Helper()
	p := &peer{t: t, generation: 5, table: &table, handle: 3, elements: es, count: -1}
	c := &Conn{socket: p, buf: make([]byte, nlwire.LargestDatagram)}
	t.Cleanup(func() { require.Empty(t, p.queue, "answers were left unread") })
	return c, p
}

func (p *peer) Close() error { return nil }

func (p *peer) Receive(b []byte, _ bool) (int, error) {
	if len(p.queue) == 0 {
		return 0, unix.EAGAIN
	}
	d := p.queue[0]
	p.queue = p.queue[1:]
	return copy(b, d.data), d.err
}

func (p *peer) Send(b []byte) error {
	ms := read(p.t, b)
	if ms[0].Type == unix.NFNL_MSG_BATCH_BEGIN {
		p.queue = append(p.queue, p.onBatch(ms[0], ms[1:len(ms)-1])...)
		return nil
	}
	require.Len(p.t, ms, 1)
	answer := p.answer(ms[0])
	if p.onDump != nil && ms[0].Flags&unix.NLM_F_DUMP == unix.NLM_F_DUMP {
		answer = p.onDump(ms[0], answer)
	}
	p.queue = append(p.queue, answer...)
	return nil
}

func (p *peer) answer(m nlwire.Message) []delivery {
	if m.Type == nftType(unix.NFT_MSG_GETGEN) {
		return p.one(m, unix.NFT_MSG_NEWGEN, nlwire.AppendBE32(nil, unix.NFTA_GEN_ID, p.generation))
	}
	if p.table == nil {
		return refuse(m, unix.ENOENT)
	}
	switch m.Type {
	case nftType(unix.NFT_MSG_GETTABLE):
		b := nlwire.AppendString(nil, unix.NFTA_TABLE_NAME, p.table.Name)
		b = nlwire.AppendAttr(b, nftaTableUserdata, appendComment(nil, p.table.Comment)...)
		return p.one(m, unix.NFT_MSG_NEWTABLE, nlwire.AppendBE64(b, nftaTableHandle, p.handle))
	case nftType(unix.NFT_MSG_GETSET):
		if m.Flags&unix.NLM_F_DUMP == unix.NLM_F_DUMP {
			return p.objects(m, unix.NFT_MSG_NEWSET)
		}
		return p.set(m)
	case nftType(unix.NFT_MSG_GETCHAIN):
		return p.objects(m, unix.NFT_MSG_NEWCHAIN)
	case nftType(unix.NFT_MSG_GETRULE):
		return p.objects(m, unix.NFT_MSG_NEWRULE)
	case nftType(unix.NFT_MSG_GETSETELEM):
		return p.dump(m)
	}
	p.t.Fatalf("request of type %#x", m.Type)
	return nil
}

func refuse(m nlwire.Message, errno unix.Errno) []delivery {
	return []delivery{{data: errorMessage(m.Seq, errno, unix.NLM_F_CAPPED)}}
}

func (p *peer) message(m nlwire.Message, msg, flags uint16, attributes []byte) []byte {
	b, at := nlwire.OpenNetfilter(nil, nftType(msg), flags, unix.NFPROTO_INET, uint16(p.generation), m.Seq)
	return nlwire.CloseMessage(append(b, attributes...), at)
}

func (p *peer) one(m nlwire.Message, msg uint16, attributes []byte) []delivery {
	return []delivery{{data: p.message(m, msg, 0, attributes)}}
}

// done ends a dump.
func done(m nlwire.Message) []byte {
	b, at := nlwire.OpenNetfilter(nil, unix.NLMSG_DONE, unix.NLM_F_MULTI, 0, 0, m.Seq)
	return nlwire.CloseMessage(b[:at+unix.SizeofNlMsghdr+4], at)
}

func (p *peer) set(m nlwire.Message) []delivery {
	name := unix.ByteSliceToString(nlwire.Find(m.Attrs(nlwire.NetfilterHeader).Data, unix.NFTA_SET_NAME))
	set, ok := p.table.Set(name)
	if !ok {
		return refuse(m, unix.ENOENT)
	}
	count := p.count
	if count < 0 {
		count = len(p.of(set))
	}
	return p.one(m, unix.NFT_MSG_NEWSET, nlwire.AppendBE32(nil, nftaSetCount, uint32(count)))
}

func (p *peer) of(set Set) []Element {
	return slices.DeleteFunc(slices.Clone(p.elements), func(e Element) bool { return e.Set != set.Name })
}

// objects lists what a transaction that makes the table would make.
func (p *peer) objects(m nlwire.Message, msg uint16) []delivery {
	b := newBatch(1, 0)
	for _, s := range p.table.Sets {
		b.addSet(p.table.Name, s)
	}
	for _, c := range p.table.Chains {
		b.addChain(p.table.Name, c)
		for _, r := range c.Rules {
			require.NoError(p.t, b.addRule(p.table.Name, c.Name, r))
		}
	}
	b.finish()
	var all []byte
	for _, made := range read(p.t, b.buf) {
		if made.Type == nftType(msg) {
			all = append(all, p.message(m, msg, unix.NLM_F_MULTI, made.Payload[4:])...)
		}
	}
	return []delivery{{data: append(all, done(m)...)}}
}

func (p *peer) dump(m nlwire.Message) []delivery {
	p.dumps++
	set, ok := p.table.Set(unix.ByteSliceToString(nlwire.Find(m.Attrs(nlwire.NetfilterHeader).Data, unix.NFTA_SET_ELEM_LIST_SET)))
	if !ok {
		return refuse(m, unix.ENOENT)
	}
	es := p.of(set)
	parts := max(p.parts, 1)
	var out []delivery
	for i := range parts {
		from, to := len(es)*i/parts, len(es)*(i+1)/parts
		out = append(out, delivery{data: p.part(m, set, es[from:to])})
	}
	return append(out, delivery{data: done(m)})
}

func (p *peer) part(m nlwire.Message, set Set, es []Element) []byte {
	b, list := nlwire.OpenAttr(nil, nlwire.Nested|unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	for _, e := range es {
		b = set.appendMember(b, &e, (*Set).appendElement)
	}
	return p.message(m, unix.NFT_MSG_NEWSETELEM, unix.NLM_F_MULTI, nlwire.CloseAttr(b, list))
}

// interrupted sets NLM_F_DUMP_INTR in the first nlwire.Message of a datagram.
func interrupted(d delivery) delivery {
	d.data = slices.Clone(d.data)
	binary.NativeEndian.PutUint16(d.data[6:], binary.NativeEndian.Uint16(d.data[6:])|unix.NLM_F_DUMP_INTR)
	return d
}
