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
	socket *nlwire.Socket
	seq    uint32
	buffer []byte
}

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
	stop := context.AfterFunc(ctx, func() { _ = k.socket.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
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
	var failed error
	for {
		n, err := k.socket.Receive(k.buffer, true)
		if err != nil {
			return err
		}
		m := nlwire.Messages{Data: k.buffer[:n]}
		for m.Next() {
			if m.Seq != k.seq { // left from a request before
				continue
			}
			if m.Flags&unix.NLM_F_DUMP_INTR != 0 && failed == nil {
				failed = errInterrupted
			}
			switch {
			case m.Type == unix.NLMSG_ERROR, m.Type == unix.NLMSG_DONE:
				if failed == nil && len(m.Payload) >= 4 {
					a, err := m.Answer()
					failed = errors.Join(err, a.Err())
				}
				return failed
			case failed == nil && len(m.Payload) >= nlwire.NetfilterHeader: // else it is read to its end
				failed = each(m.Payload[0], m.Payload[nlwire.NetfilterHeader:])
				if !req.Dump {
					return failed
				}
			}
		}
		if m.Err != nil {
			return m.Err
		}
	}
}

// Close is that of Source.
func (k *kernel) Close() error { return k.socket.Close() }
