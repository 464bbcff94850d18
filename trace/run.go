// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf"
	"github.com/nftnat/nftnat/internal/nlwire"
	"github.com/nftnat/nftnat/trace/internal/marking"
)

// input is what one of the sockets has received.
type input struct {
	message message
	drop    bpf.Drop
	kind    inputKind
	err     error
}

type inputKind int

const (
	traceMessage inputKind = iota
	traceLost              // events had no room
	hostChanged
	packetDropped
	failed
)

// tick is how often packets are looked at that nothing more was seen of.
const tick = 10 * time.Millisecond

// Run tells events until the context is done, which is no error, or tell returns one.
func (t *Tracer) Run(ctx context.Context, tell func(Event) error) error {
	inputs := make(chan input, 1024)
	ctx, cancel := context.WithCancel(ctx)
	readers := 0
	ended := make(chan struct{})
	start := func(s *nlwire.Socket, read func(*nlwire.Socket, func(input) bool)) {
		readers++
		stop := context.AfterFunc(ctx, func() { _ = s.SetReadDeadline(time.Unix(1, 0)) })
		go func() {
			defer func() { stop(); ended <- struct{}{} }()
			read(s, func(in input) bool {
				select {
				case inputs <- in:
					return true
				case <-ctx.Done():
					return false
				}
			})
		}()
	}
	defer func() {
		cancel()
		for range readers {
			<-ended
		}
	}()
	if t.drops != nil {
		readers++
		go func() {
			defer func() { ended <- struct{}{} }()
			err := t.drops.Run(ctx, func(d bpf.Drop) {
				select {
				case inputs <- input{kind: packetDropped, drop: d}:
				case <-ctx.Done():
				}
			})
			if err != nil {
				select {
				case inputs <- input{kind: failed, err: err}:
				case <-ctx.Done():
				}
			}
		}()
	}
	start(t.events, readEvents)
	start(t.links, readHost)
	t.packets.notify = tell
	for _, text := range t.notes {
		if err := t.note(text); err != nil {
			return err
		}
	}
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			t.packets.matchDrops(time.Now().Add(time.Hour))
			t.packets.end(time.Now().Add(time.Hour))
			return errors.Join(t.packets.err, t.tellLeftOut())
		case in := <-inputs:
			err = t.input(ctx, in)
		case now := <-ticker.C:
			if len(inputs) != 0 { // what waits may be about them
				continue
			}
			t.packets.matchDrops(now)
			t.packets.end(now)
		case <-second.C:
			err = t.everySecond(ctx)
		}
		if err = errors.Join(err, t.packets.err); err != nil {
			return err
		}
	}
}

func (t *Tracer) note(text string) error { return t.packets.notify(Note{Time: time.Now(), Text: text}) }

func (t *Tracer) input(ctx context.Context, in input) error {
	switch in.kind {
	case traceMessage:
		t.packets.event(ctx, in.message, time.Now())
		return nil
	case traceLost:
		t.lost++
		return nil
	case packetDropped:
		t.packets.dropped(in.drop, time.Now())
		return nil
	case hostChanged:
		return t.followHost()
	case failed:
		if ctx.Err() != nil { // that ended the reading
			return nil
		}
	}
	return in.err
}

// everySecond looks at what has changed, and says how many packets were left out.
func (t *Tracer) everySecond(ctx context.Context) error {
	t.names.refresh(ctx)
	if t.opts.Published != nil && t.names.generation() != t.published {
		if err := t.followPublished(ctx); err != nil {
			return err
		}
	}
	t.packets.tellMissing(time.Now())
	return t.tellLeftOut()
}

// tellLeftOut says what was left out since the last time.
func (t *Tracer) tellLeftOut() error {
	n, err := t.table.LeftOut()
	if err != nil {
		return err
	}
	if t.lost != 0 {
		t.lost = 0
		if err := t.note("events were lost: there were more than this program could read"); err != nil {
			return err
		}
	}
	ps := t.packets
	leftOut := n - t.leftOut + ps.full + ps.unseen
	t.leftOut, ps.full, ps.unseen, ps.unseenTold = n, 0, 0, 0
	if leftOut == 0 {
		return nil
	}
	return t.note(fmt.Sprintf("%d packets were left out: at most %d a second are shown", leftOut, marking.MostPackets))
}

// readEvents passes on events of nftrace.
func readEvents(s *nlwire.Socket, pass func(input) bool) {
	buf := make([]byte, nlwire.LargestDatagram)
	for {
		n, err := s.Receive(buf, true)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			if !pass(input{kind: traceLost}) {
				return
			}
			continue
		case err != nil:
			pass(input{kind: failed, err: fmt.Errorf("read events of nftrace: %w", err)})
			return
		}
		m := nlwire.Messages{Data: buf[:n]}
		for m.Next() {
			if e, ok := decodeMessage(m.Message); ok && !pass(input{message: e}) {
				return
			}
		}
	}
}

// readHost says that interfaces or addresses have changed, once for those of a moment.
func readHost(s *nlwire.Socket, pass func(input) bool) {
	buf := make([]byte, nlwire.LargestDatagram)
	for pending := false; ; {
		_, err := s.Receive(buf, !pending)
		switch {
		case errors.Is(err, unix.EAGAIN):
			pending = false
			if !pass(input{kind: hostChanged}) {
				return
			}
		case err == nil, errors.Is(err, unix.ENOBUFS), errors.Is(err, nlwire.ErrMalformed):
			pending = true
		default:
			pass(input{kind: failed, err: fmt.Errorf("read notifications of interfaces: %w", err)})
			return
		}
	}
}
