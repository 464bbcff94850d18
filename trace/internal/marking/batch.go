// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package marking

import (
	"encoding/binary"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// batch is a transaction.
type batch struct {
	table string
	seq   uint32
	buf   []byte
	last  int // where its last message begins
}

// message appends a message with attributes.
func (b *batch) message(msg, flags uint16, attrs []byte) {
	b.seq++
	b.last = len(b.buf)
	buf, at := nlwire.OpenNetfilter(b.buf, unix.NFNL_SUBSYS_NFTABLES<<8|msg, flags, unix.NFPROTO_INET, 0, b.seq)
	b.buf = nlwire.CloseMessage(append(buf, attrs...), at)
}

// transact makes a change. Only the last message is acknowledged; others answer if they fail.
func (t *Table) transact(change func(*batch)) error {
	b := &batch{table: t.name, seq: t.seq + 1}
	begin := func(msg uint16) {
		buf, at := nlwire.OpenNetfilter(b.buf, msg, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, b.seq)
		b.buf = nlwire.CloseMessage(buf, at)
	}
	begin(unix.NFNL_MSG_BATCH_BEGIN)
	change(b)
	flags := b.buf[b.last+6:]
	binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_ACK)
	begin(unix.NFNL_MSG_BATCH_END)
	from := t.seq
	t.seq = b.seq
	if err := t.socket.Send(b.buf); err != nil {
		return err
	}
	return t.answer(from, nil)
}

// answer reads the answers to requests after a sequence number: the kernel has queued them all. The first error
// is that of the request.
func (t *Table) answer(from uint32, each func(attrs []byte)) (failed error) {
	for {
		n, err := t.socket.Receive(t.buf, false)
		if errors.Is(err, unix.EAGAIN) {
			return failed
		}
		if err != nil {
			return errors.Join(failed, err)
		}
		m := nlwire.Messages{Data: t.buf[:n]}
		for m.Next() {
			switch {
			case m.Seq <= from:
			case m.Type == unix.NLMSG_ERROR:
				a, err := m.Answer()
				if failed == nil {
					failed = errors.Join(err, a.Err())
				}
			case each != nil && len(m.Payload) >= nlwire.NetfilterHeader:
				each(m.Payload[nlwire.NetfilterHeader:])
			}
		}
	}
}

func (s set) attrs(table string, id uint32) []byte {
	var typ, size uint32
	sizes := map[uint32]uint32{typeIPv4Addr: 4, typeIPv6Addr: 16, typeIfindex: 4}
	for _, field := range s.types {
		typ = typ<<6 | field // TYPE_BITS in nftables' include/datatype.h
		size += max(4, sizes[field])
	}
	b := nlwire.AppendString(nil, unix.NFTA_SET_TABLE, table)
	b = nlwire.AppendString(b, unix.NFTA_SET_NAME, s.name)
	b = nlwire.AppendBE32(b, unix.NFTA_SET_FLAGS, s.flags)
	b = nlwire.AppendBE32(b, unix.NFTA_SET_KEY_TYPE, typ)
	b = nlwire.AppendBE32(b, unix.NFTA_SET_KEY_LEN, size)
	b = nlwire.AppendBE32(b, unix.NFTA_SET_ID, id)
	if s.name == setHooked {
		// For nft(8), which lists it: NFTNL_UDATA_SET_KEYBYTEORDER, of 4 bytes, BYTEORDER_HOST_ENDIAN.
		b = nlwire.AppendAttr(b, unix.NFTA_SET_USERDATA, append([]byte{0, 4}, hostOrder(1)...)...)
	}
	if s.timeout != 0 {
		b = nlwire.AppendBE64(b, unix.NFTA_SET_TIMEOUT, s.timeout)
	}
	if s.size != 0 {
		b = nlwire.AppendAttr(b, unix.NFTA_SET_DESC|nlwire.Nested, nlwire.AppendBE32(nil, unix.NFTA_SET_DESC_SIZE, s.size)...)
	}
	return b
}

// chain makes a chain. The device is for one at ingress.
func (b *batch) chain(c chain, device string) {
	a := nlwire.AppendString(nil, unix.NFTA_CHAIN_TABLE, b.table)
	a = nlwire.AppendString(a, unix.NFTA_CHAIN_NAME, c.name)
	if c.base {
		a = nlwire.AppendString(a, unix.NFTA_CHAIN_TYPE, "filter")
		h := nlwire.AppendBE32(nil, unix.NFTA_HOOK_HOOKNUM, c.hook)
		h = nlwire.AppendBE32(h, unix.NFTA_HOOK_PRIORITY, uint32(c.priority))
		if device != "" {
			h = nlwire.AppendString(h, unix.NFTA_HOOK_DEV, device)
		}
		a = nlwire.AppendAttr(a, unix.NFTA_CHAIN_HOOK|nlwire.Nested, h...)
	}
	b.message(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, a)
}

func (b *batch) rules(c chain) {
	for _, rule := range c.rules {
		a := nlwire.AppendString(nil, unix.NFTA_RULE_TABLE, b.table)
		a = nlwire.AppendString(a, unix.NFTA_RULE_CHAIN, c.name)
		a = nlwire.AppendAttr(a, unix.NFTA_RULE_EXPRESSIONS|nlwire.Nested, slices.Concat(rule...)...)
		b.message(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, a)
	}
}

// element is an element of a set.
type element struct {
	key []byte
	end bool // of an interval
}

// mostElements is how many elements one message has at most: its list must not exceed 64 KiB.
const mostElements = 1024

// elements adds elements to a set, or deletes them.
func (b *batch) elements(msg uint16, set string, es []element) {
	for part := range slices.Chunk(es, mostElements) {
		var list []byte
		for _, e := range part {
			a := nlwire.AppendAttr(nil, unix.NFTA_SET_ELEM_KEY|nlwire.Nested, dataValue(e.key)...)
			if e.end {
				a = nlwire.AppendBE32(a, unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
			}
			list = nlwire.AppendAttr(list, unix.NFTA_LIST_ELEM|nlwire.Nested, a...)
		}
		a := nlwire.AppendString(nil, unix.NFTA_SET_ELEM_LIST_TABLE, b.table)
		a = nlwire.AppendString(a, unix.NFTA_SET_ELEM_LIST_SET, set)
		a = nlwire.AppendAttr(a, unix.NFTA_SET_ELEM_LIST_ELEMENTS|nlwire.Nested, list...)
		b.message(msg, unix.NLM_F_CREATE, a)
	}
}

// field is a field of a key, at the begin of 4 bytes.
func field(data ...byte) []byte {
	for len(data)%4 != 0 {
		data = append(data, 0)
	}
	return data
}
