// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

const (
	// socketBuffer is the receive buffer of a socket: many times what a dump's
	// pieces or a chunk of requests can fill. A smaller one costs retries.
	socketBuffer = 1 << 20

	// answerTime is how long an answer is waited for. The kernel answers within the system
	// call that asks, so it is lost by then, or the machine is under great load.
	answerTime = 10 * time.Second

	// overruns bounds how often draining a socket goes on after the kernel dropped a message.
	overruns = 32
)

// socket is a *nlwire.Socket, or that of a test.
type socket interface {
	Send(b []byte) error
	Receive(b []byte, wait bool) (int, error)
	SetReadDeadline(t time.Time) error
	Close() error
}

// channel exchanges one request at a time with the kernel. Sequence numbers distinguish its
// answers from older ones.
type channel struct {
	socket socket
	buf    []byte
	seq    uint32

	// dirty: the end of the last exchange was not seen, so that some of it
	// may be left on the socket. It is read and dropped before the next one:
	// the kernel refuses a dump while an older one is running (EBUSY), and
	// once it has had to drop an answer it goes on dropping them until the
	// receive queue is empty (NETLINK_S_CONGESTED in netlink_attachskb).
	dirty bool
}

func newChannel(s socket) *channel {
	return &channel{socket: s, buf: make([]byte, nlwire.LargestDatagram)}
}

// exchange sends one datagram and calls fn with each message that comes back,
// until fn says that it was the last one, or fails.
func (ch *channel) exchange(req []byte, fn func(m nlwire.Message) (last bool, err error)) error {
	if ch.dirty {
		if err := ch.drain(); err != nil {
			return err
		}
	}
	ch.dirty = true // stays so if fn panics
	if err := ch.socket.Send(req); err != nil {
		return err
	}
	for {
		if err := ch.socket.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
			return err
		}
		n, err := ch.socket.Receive(ch.buf, true)
		if err != nil {
			return err
		}
		m := nlwire.Messages{Data: ch.buf[:n]}
		for m.Next() {
			last, err := fn(m.Message)
			ch.dirty = !last
			if last || err != nil {
				return err
			}
		}
		if m.Err != nil {
			return m.Err
		}
	}
}

// drain reads and drops everything up to the end of a running dump, of which the
// kernel makes the next piece while one is read (netlink_recvmsg).
func (ch *channel) drain() error {
	for faults := 0; faults < overruns; {
		switch _, err := ch.socket.Receive(ch.buf, false); {
		case err == nil, errors.Is(err, nlwire.ErrMalformed):
		case errors.Is(err, unix.ENOBUFS):
			faults++
		case errors.Is(err, unix.EAGAIN):
			return nil
		default:
			return err
		}
	}
	return unix.ENOBUFS
}

// dump sends a dump request and calls fn with each entry's payload. An error of fn
// ends it.
func (ch *channel) dump(req []byte, fn func(payload []byte) error) error {
	ch.seq++
	setSequence(req, ch.seq, false)
	interrupted := false
	err := ch.exchange(req, func(m nlwire.Message) (bool, error) {
		if m.Seq != ch.seq {
			return false, nil
		}
		interrupted = interrupted || m.Flags&unix.NLM_F_DUMP_INTR != 0
		switch m.Type {
		case msgNew:
			return false, fn(m.Payload)
		case unix.NLMSG_ERROR, unix.NLMSG_DONE: // both begin with an error number (netlink_dump_done)
			a, err := m.Answer()
			if err == nil {
				err = a.Err()
			}
			// Refused for an older dump: that one is still to be read.
			return a.Errno != unix.EBUSY, err
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
	err = ch.exchange(req, func(m nlwire.Message) (bool, error) {
		switch {
		case m.Seq != ch.seq:
			return false, nil
		case m.Type == typ:
			payload = m.Payload
			return true, nil
		case m.Type != unix.NLMSG_ERROR:
			return false, nil
		}
		a, err := m.Answer()
		if err == nil {
			err = a.Err()
		}
		if err == nil {
			err = nlwire.ErrMalformed // no acknowledgement was asked for
		}
		return true, err
	})
	return payload, err
}

// batch sends n messages that stand in b back to back, in one datagram, and
// calls fn with each error among their answers. Only the last one asks for an
// acknowledgement; the kernel works through them in order, so that this one's
// answer ends the exchange.
func (ch *channel) batch(b []byte, n int, fn func(nlwire.Answer)) error {
	first := ch.seq + 1
	ch.seq += uint32(n)
	for i, rest := 0, b; i < n; i++ {
		setSequence(rest, first+uint32(i), i == n-1)
		rest = rest[binary.NativeEndian.Uint32(rest):]
	}
	return ch.exchange(b, func(m nlwire.Message) (bool, error) {
		i := m.Seq - first // wraps above n for older answers
		if i >= uint32(n) || m.Type != unix.NLMSG_ERROR {
			return false, nil
		}
		a, err := m.Answer()
		switch {
		case err != nil:
			return true, err
		case a.Errno == unix.EPERM:
			// The datagram is refused as a whole, on its first message:
			// no other answer will come (nfnetlink_rcv).
			return true, a.Err()
		case a.Errno != 0:
			fn(a)
		}
		return i == uint32(n)-1, nil
	})
}
