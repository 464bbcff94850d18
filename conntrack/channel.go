// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// channel is a conversation with the kernel: one request at a time, its
// answers told from older ones by their sequence numbers. One receive buffer
// serves all of it.
type channel struct {
	t   transport
	buf []byte
	seq uint32

	// dirty: the end of the last exchange was not seen, so that some of it
	// may be left on the socket. It is read and dropped before the next one:
	// the kernel refuses a dump while an older one is running (EBUSY), and
	// once it has had to drop an answer it goes on dropping them until the
	// receive queue is empty (NETLINK_S_CONGESTED in netlink_attachskb).
	dirty bool
}

func newChannel(t transport) *channel { return &channel{t: t, buf: make([]byte, readSize)} }

// exchange sends one datagram and hands each message that comes back to fn,
// until fn says that it has seen the last one, or fails.
func (ch *channel) exchange(req []byte, fn func(m message) (last bool, err error)) error {
	if ch.dirty {
		if err := ch.t.drain(ch.buf); err != nil {
			return err
		}
	}
	ch.dirty = true // stays so if fn panics
	if err := ch.t.send(req); err != nil {
		return err
	}
	for {
		n, err := ch.t.recv(ch.buf)
		if err != nil {
			return err
		}
		for b := ch.buf[:n]; len(b) > 0; {
			var m message
			if m, b, err = nextMessage(b); err != nil {
				return err
			}
			last, err := fn(m)
			ch.dirty = !last
			if last || err != nil {
				return err
			}
		}
	}
}

// dump sends a dump request and hands each entry's payload to fn, whose error
// ends it.
func (ch *channel) dump(req []byte, fn func(payload []byte) error) error {
	ch.seq++
	binary.NativeEndian.PutUint32(req[8:], ch.seq)
	interrupted := false
	err := ch.exchange(req, func(m message) (bool, error) {
		if m.seq != ch.seq {
			return false, nil
		}
		interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
		switch m.typ {
		case msgNew:
			return false, fn(m.data)
		case unix.NLMSG_ERROR, unix.NLMSG_DONE:
			// Both begin with an errno (netlink_dump_done).
			errno, err := ackErrno(m)
			if errno != 0 {
				err = newKernelError(errno, m)
			}
			// Refused for an older dump: that one is still to be read.
			return errno != unix.EBUSY, err
		}
		return false, nil
	})
	if err == nil && interrupted {
		return errInterrupted
	}
	return err
}

// query sends a request that has one answer and returns its payload, a view
// into the receive buffer.
func (ch *channel) query(req []byte, typ uint16) (payload []byte, err error) {
	ch.seq++
	setSequence(req, ch.seq, false)
	err = ch.exchange(req, func(m message) (bool, error) {
		if m.seq != ch.seq {
			return false, nil
		}
		switch m.typ {
		case typ:
			payload = m.data
			return true, nil
		case unix.NLMSG_ERROR:
			errno, err := ackErrno(m)
			if err == nil && errno == 0 {
				err = errMalformed // no acknowledgement was asked for
			} else if err == nil {
				err = newKernelError(errno, m)
			}
			return true, err
		}
		return false, nil
	})
	return payload, err
}

// batch sends n messages that stand in b back to back, in one datagram, and
// hands each error among their answers to fn. Only the last one asks for an
// acknowledgement; the kernel works through them in order, so that this one's
// answer ends the exchange.
func (ch *channel) batch(b []byte, n int, fn func(errno unix.Errno, m message)) error {
	first := ch.seq + 1
	ch.seq += uint32(n)
	for i, rest := 0, b; i < n; i++ {
		setSequence(rest, first+uint32(i), i == n-1)
		rest = rest[binary.NativeEndian.Uint32(rest):]
	}
	return ch.exchange(b, func(m message) (bool, error) {
		i := m.seq - first // wraps above n for what is older
		if i >= uint32(n) || m.typ != unix.NLMSG_ERROR {
			return false, nil
		}
		errno, err := ackErrno(m)
		if err != nil {
			return true, err
		}
		if errno == unix.EPERM {
			// The datagram is refused as a whole, on its first message:
			// no other answer will come (nfnetlink_rcv).
			return true, newKernelError(errno, m)
		}
		if errno != 0 {
			fn(errno, m)
		}
		return i == uint32(n)-1, nil
	})
}
