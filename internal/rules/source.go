// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Request asks for objects of nftables.
type Request struct {
	Message uint16 // NFT_MSG_GET*
	Dump    bool   // all of them; else there is one answer
	Family  uint8
	Attrs   []byte
}

// Source answers requests: the kernel, or a recording of what it answered.
type Source interface {
	// Ask calls each with the attributes of every answer, which are valid until it returns. An
	// error of each ends it. It may be asked anew after an error, but not by each.
	Ask(ctx context.Context, req Request, each func(family uint8, attrs []byte) error) error
	Close() error
}

// errInterrupted means that objects came or went while they were listed.
var errInterrupted = errors.New("the rules change all the time")

// kernel asks by a netlink socket.
type kernel struct {
	socket  *nlwire.Socket
	seq     uint32
	buffers [ahead + 1][]byte
}

// ahead is how many datagrams of a list are received before they are decoded. Writing a datagram
// takes the kernel as long as it takes to decode one.
const ahead = 2

// long is the length of a datagram behind which there are likely more to be received.
const long = 8 << 10

// askTime bounds one request.
const askTime = 2 * time.Second

// Ask is that of Source. The error is errInterrupted if a list is not of one moment.
func (k *kernel) Ask(ctx context.Context, req Request, each func(family uint8, attrs []byte) error) error {
	deadline := time.Now().Add(askTime)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := errors.Join(ctx.Err(), k.socket.SetReadDeadline(deadline)); err != nil {
		return err
	}
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() { _ = k.socket.SetReadDeadline(time.Unix(1, 0)) })
		defer stop()
	}
	err := k.ask(req, each)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (k *kernel) ask(req Request, each func(family uint8, attrs []byte) error) error {
	flags := uint16(0)
	if req.Dump {
		flags = unix.NLM_F_DUMP
	}
	k.seq++
	b, at := nlwire.OpenNetfilter(nil, unix.NFNL_SUBSYS_NFTABLES<<8|req.Message, flags, req.Family, 0, k.seq)
	if err := k.socket.Send(nlwire.CloseMessage(append(b, req.Attrs...), at)); err != nil {
		return err
	}
	if k.buffers[0] == nil {
		k.buffers[0] = make([]byte, nlwire.LargestDatagram)
	}
	a := answer{seq: k.seq, dump: req.Dump, each: each}
	for !a.ended {
		n, err := k.socket.Receive(k.buffers[0], true)
		if err != nil {
			return errors.Join(a.err, err)
		}
		if n >= long {
			k.readAhead(&a, k.buffers[0][:n])
			break
		}
		a.read(k.buffers[0][:n])
	}
	return a.err
}

// readAhead reads a datagram in the first buffer, and what follows it.
func (k *kernel) readAhead(a *answer, first []byte) {
	free, full := make(chan []byte, len(k.buffers)), make(chan datagram)
	for i := range k.buffers[1:] {
		b := &k.buffers[1+i]
		if *b == nil {
			*b = make([]byte, nlwire.LargestDatagram)
		}
		free <- *b
	}
	if k.ends(a.dump, first) {
		a.read(first)
		return
	}
	go k.receive(a.dump, free, full)
	a.read(first)
	if a.ended {
		close(free)
		free = nil
	} else {
		free <- k.buffers[0]
	}
	for d := range full {
		if a.err = errors.Join(a.err, d.err); d.err == nil && !a.ended {
			a.read(d.data)
		}
		if !a.ended {
			free <- d.buffer
		} else if free != nil {
			close(free)
			free = nil
		}
	}
}

// datagram is what was received into a buffer.
type datagram struct {
	buffer, data []byte
	err          error
}

// receive receives an answer into free buffers until it ends, and closes full. It ends when free is
// closed, too.
func (k *kernel) receive(dump bool, free <-chan []byte, full chan<- datagram) {
	defer close(full)
	for b := range free {
		n, err := k.socket.Receive(b, true)
		full <- datagram{b, b[:n], err}
		if err != nil {
			return
		}
		if k.ends(dump, b[:n]) {
			return
		}
	}
}

// ends reports whether the answer ends in a datagram.
func (k *kernel) ends(dump bool, b []byte) bool {
	m := nlwire.Messages{Data: b}
	for m.Next() {
		if m.Seq == k.seq && (!dump || m.Type == unix.NLMSG_ERROR || m.Type == unix.NLMSG_DONE) {
			return true
		}
	}
	return false
}

// answer reads the datagrams of an answer.
type answer struct {
	seq   uint32
	dump  bool
	each  func(family uint8, attrs []byte) error
	ended bool
	err   error
}

func (a *answer) read(b []byte) {
	m := nlwire.Messages{Data: b}
	for !a.ended && m.Next() {
		if m.Seq != a.seq { // left from a request before
			continue
		}
		if m.Flags&unix.NLM_F_DUMP_INTR != 0 && a.err == nil {
			a.err = errInterrupted
		}
		switch {
		case m.Type == unix.NLMSG_ERROR, m.Type == unix.NLMSG_DONE:
			a.ended = true
			if a.err == nil && len(m.Payload) >= 4 {
				r, err := m.Answer()
				a.err = errors.Join(err, r.Err())
			}
		case a.err == nil && len(m.Payload) >= nlwire.NetfilterHeader: // else it is read to its end
			a.err = a.each(m.Payload[0], m.Payload[nlwire.NetfilterHeader:])
			a.ended = !a.dump
		}
	}
	if m.Err != nil {
		a.err, a.ended = m.Err, true
	}
}

// Close is that of Source.
func (k *kernel) Close() error { return k.socket.Close() }
