// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// fakeKernel is a socket with the kernel's manners and a table of flows,
// for what the true kernel cannot be brought to do.
type fakeKernel struct {
	t     *testing.T
	table []Flow

	// hook, when set, sees each request first; it may queue what it wants,
	// and returns true when that is all the answer.
	hook func(m nlwire.Message) bool
	// sendErr, when set, fails that many sends to come.
	sendErr []error

	queue    []any // []byte datagrams and errors, in order
	running  []any // what is left of a dump, made when the queue is empty
	requests []nlwire.Message
	closed   bool
}

func (k *fakeKernel) Send(b []byte) error {
	if len(k.sendErr) > 0 {
		err := k.sendErr[0]
		k.sendErr = k.sendErr[1:]
		return err
	}
	for len(b) > 0 {
		var m nlwire.Message
		var err error
		m, b, err = nextMessage(b)
		require.NoError(k.t, err)
		m.Payload = slices.Clone(m.Payload)
		k.requests = append(k.requests, m)
		if k.hook == nil || !k.hook(m) {
			k.answer(m)
		}
	}
	return nil
}

func (k *fakeKernel) Receive(b []byte, wait bool) (int, error) {
	if k.closed {
		return 0, os.ErrClosed
	}
	from := &k.queue
	if len(k.queue) == 0 {
		from = &k.running
	}
	if len(*from) == 0 {
		if !wait {
			return 0, unix.EAGAIN
		}
		time.Sleep(answerTime) // in a synctest bubble, where it costs nothing
		return 0, os.ErrDeadlineExceeded
	}
	next := (*from)[0]
	*from = (*from)[1:]
	if err, ok := next.(error); ok {
		return 0, err
	}
	return copy(b, next.([]byte)), nil
}

func (k *fakeKernel) SetReadDeadline(time.Time) error { return nil }

func (k *fakeKernel) Close() error {
	k.closed = true
	return nil
}

// answer does what the kernel does.
func (k *fakeKernel) answer(m nlwire.Message) {
	switch m.Type {
	case msgGetStats:
		k.queue = append(k.queue, datagram(m.Seq, msgGetStats, 0, statsPayload(uint32(len(k.table)), 1000)))
	case msgGet:
		k.dump(m, 0)
	case msgDelete:
		errno := unix.ENOENT
		var e entry
		// A delete request is an entry without what its deletion does not need.
		ok, err := decodeEntry(nlwire.AppendAttr(slices.Clone(m.Payload), ctaStatus, 0, 0, 0, 0), &e)
		require.NoError(k.t, err)
		require.True(k.t, ok)
		for i, f := range k.table {
			if f.Src == e.origTuple.src && f.Dst == e.origTuple.dst && f.Proto == e.origTuple.proto &&
				f.ID == binary.BigEndian.Uint32(e.id) {
				k.table = slices.Delete(k.table, i, i+1)
				errno = 0
				break
			}
		}
		if errno != 0 || m.Flags&unix.NLM_F_ACK != 0 {
			k.queue = append(k.queue, ack(m.Seq, errno))
		}
	default:
		k.t.Errorf("request of type %#x", m.Type)
	}
}

// dump answers with the whole table, ten entries a datagram, as kernels without
// a filter do. There can be one dump only at a time.
func (k *fakeKernel) dump(m nlwire.Message, flags uint16) {
	if len(k.running) > 0 {
		k.queue = append(k.queue, ack(m.Seq, unix.EBUSY))
		return
	}
	for part := range slices.Chunk(k.table, 10) {
		var b []byte
		for _, f := range part {
			b = append(b, datagram(m.Seq, msgNew, unix.NLM_F_MULTI|flags, entryPayload(f))...)
		}
		k.running = append(k.running, b)
	}
	k.running = append(k.running, done(m.Seq, 0, flags))
}

func datagram(seq uint32, typ, flags uint16, payload []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(nlwire.MessageHeader+len(payload)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 4711) // the receiver's port id
	b = append(b, payload...)
	return append(b, make([]byte, nlwire.Align(len(b))-len(b))...)
}

func errnoPayload(errno unix.Errno) []byte {
	return binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno)))
}

func done(seq uint32, errno unix.Errno, flags uint16) []byte {
	return datagram(seq, unix.NLMSG_DONE, unix.NLM_F_MULTI|flags, errnoPayload(errno))
}

func ack(seq uint32, errno unix.Errno) []byte {
	return datagram(seq, unix.NLMSG_ERROR, unix.NLM_F_CAPPED, append(errnoPayload(errno), make([]byte, nlwire.MessageHeader)...))
}

// ackWithText is an extended acknowledgement.
func ackWithText(seq uint32, errno unix.Errno, text string) []byte {
	b := append(errnoPayload(errno), make([]byte, nlwire.MessageHeader)...)
	b = nlwire.AppendAttr(b, unix.NLMSGERR_ATTR_MSG, append([]byte(text), 0)...)
	return datagram(seq, unix.NLMSG_ERROR, unix.NLM_F_CAPPED|unix.NLM_F_ACK_TLVS, b)
}

func statsPayload(entries, limit uint32) []byte {
	b := []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0}
	b = nlwire.AppendAttr(b, ctaStatsGlobalEntries, binary.BigEndian.AppendUint32(nil, entries)...)
	return nlwire.AppendAttr(b, ctaStatsGlobalMaxEntries, binary.BigEndian.AppendUint32(nil, limit)...)
}

// entryPayload is a flow as the kernel sends it, with attributes in it that
// this package does not know.
func entryPayload(f Flow) []byte {
	const ctaMark, ctaUse, unknown = 8, 11, 99
	b := []byte{familyOf(f.Src.Addr()), unix.NFNETLINK_V0, 0, 0}
	b = appendTuple(b, ctaTupleOrig, f.Proto, f.Src, f.Dst)
	b = appendTuple(b, ctaTupleReply, f.Proto, f.ReplySrc, f.ReplyDst)
	if f.Zone != 0 {
		b = nlwire.AppendAttr(b, ctaZone, binary.BigEndian.AppendUint16(nil, f.Zone)...)
	}
	b = nlwire.AppendAttr(b, unknown, 1, 2, 3)
	b = nlwire.AppendAttr(b, ctaStatus, binary.BigEndian.AppendUint32(nil, uint32(f.Status))...)
	b = nlwire.AppendAttr(b, ctaMark, 0, 0, 0, 0)
	b = nlwire.AppendAttr(b, ctaID, binary.BigEndian.AppendUint32(nil, f.ID)...)
	b = nlwire.AppendAttr(b, ctaUse, 0, 0, 0, 2)
	return nlwire.AppendAttr(b, ctaTimeout, 0, 0, 0, 29)
}

// fakeConn returns a connection to two sockets of a kernel that holds n flows
// of UDP to 192.0.2.1:53, and as many to port 54.
func fakeConn(t *testing.T, n int) (c *Conn, reader, deleter *fakeKernel) {
	t.Helper()
	deleter = &fakeKernel{t: t}
	for i := range n {
		for port := 53; port <= 54; port++ {
			f := plain(unix.IPPROTO_UDP, fmt.Sprintf("10.0.%d.%d:4000", i/250, i%250), fmt.Sprintf("192.0.2.1:%d", port))
			f.ID = uint32(1000*port + i)
			deleter.table = append(deleter.table, f)
		}
	}
	reader = &fakeKernel{t: t, table: slices.Clone(deleter.table)}
	return newConn(reader, deleter), reader, deleter
}

// count returns how many requests of a type were sent.
func (k *fakeKernel) count(typ uint16) int {
	n := 0
	for _, m := range k.requests {
		if m.Type == typ {
			n++
		}
	}
	return n
}

// nextMessage cuts the first message off a datagram.
func nextMessage(b []byte) (m nlwire.Message, rest []byte, err error) {
	ms := nlwire.Messages{Data: b}
	if !ms.Next() {
		return nlwire.Message{}, nil, nlwire.ErrMalformed
	}
	return ms.Message, ms.Data, nil
}

// nextAttr cuts the first attribute off a list of attributes.
func nextAttr(b []byte) (typ uint16, data, rest []byte, err error) {
	a := nlwire.Attrs{Data: b}
	if !a.Next() {
		return 0, nil, nil, nlwire.ErrMalformed
	}
	return a.Type, a.Payload, a.Data, nil
}

// beginNest begins an attribute that holds attributes.
func beginNest(b []byte, typ uint16) []byte {
	b, _ = nlwire.OpenAttr(b, nlwire.Nested|typ)
	return b
}
