// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

const (
	// turn bounds the wait for what the other side does at once.
	turn = 5 * time.Second
	// preparation bounds the wait for a receiver to become ready, and for a sender to finish
	// what it is doing: an engine that opens with 60,000 mappings takes seconds.
	preparation = 30 * time.Second
)

// Sender is the end of the daemon that hands its sockets over.
type Sender struct{ *Conn }

// NewSender is [NewConn].
func NewSender(c *net.UnixConn) (Sender, error) {
	conn, err := NewConn(c)
	return Sender{conn}, err
}

// AwaitBegin is the first step: it waits for Begin. After an error the connection is closed.
func (s Sender) AwaitBegin(ctx context.Context) error {
	defer s.interruptOn(ctx)()
	m, err := s.Expect(Begin, turn)
	if err == nil && m.Text != Version {
		err = fmt.Errorf("hand over: the other process speaks %q, and this one %q", m.Text, Version)
	}
	if err != nil {
		return s.Abort(err)
	}
	return nil
}

// Lend is the second step: it sends the sockets and waits until the receiver is ready. After
// an error the connection is closed, and the sender has to go on.
func (s Sender) Lend(ctx context.Context, sockets []Socket) error {
	defer s.interruptOn(ctx)()
	count := strconv.Itoa(len(sockets))
	for len(sockets) > 0 {
		n := min(len(sockets), MaxSockets)
		if err := s.Send(Message{Kind: Lend, Sockets: sockets[:n]}, turn); err != nil {
			return s.Abort(err)
		}
		sockets = sockets[n:]
	}
	if err := s.Send(Message{Kind: EndOfList, Text: count}, turn); err != nil {
		return s.Abort(err)
	}
	if _, err := s.Expect(Ready, preparation); err != nil {
		return s.Abort(err)
	}
	return nil
}

// Commit is the third step: it lets the receiver serve, and waits without a bound until that
// does: the sender cannot go on as long as the receiver may serve. After an error that is not
// because of ctx the receiver has ended, and the sender has to go on.
func (s Sender) Commit(ctx context.Context) error {
	defer s.interruptOn(ctx)()
	if err := s.Send(Message{Kind: Commit}, turn); err != nil {
		return err
	}
	_, err := s.Expect(Committed, 0)
	return err
}

// Release is the last step: the sender has closed everything. The connection is closed.
func (s Sender) Release() error {
	return errors.Join(s.Send(Message{Kind: Released}, turn), s.Close())
}

// Receiver is the end of the daemon that the sockets are handed over to.
type Receiver struct{ *Conn }

// NewReceiver is [NewConn].
func NewReceiver(c *net.UnixConn) (Receiver, error) {
	conn, err := NewConn(c)
	return Receiver{conn}, err
}

// Begin is the first step: it asks for the sockets and returns them. They are the caller's,
// also those that came before an error. The error is io.EOF if the sender ended before it had
// sent all.
func (r Receiver) Begin(ctx context.Context) (sockets []Socket, err error) {
	defer r.interruptOn(ctx)()
	if err := r.Send(Message{Kind: Begin, Text: Version}, turn); err != nil {
		if hasEnded(err) {
			err = io.EOF
		}
		return nil, err
	}
	for wait := preparation; ; wait = turn {
		m, err := r.Receive(wait)
		switch {
		case err != nil:
			return sockets, err
		case m.Kind == Lend:
			sockets = append(sockets, m.Sockets...)
		case m.Kind == EndOfList && m.Text == strconv.Itoa(len(sockets)):
			return sockets, nil
		case m.Kind == EndOfList:
			return sockets, fmt.Errorf("receive: %w: %d sockets have come of %s", ErrMalformed, len(sockets), m.Text)
		default:
			return sockets, fmt.Errorf("receive: %w: %s where %s was due", ErrMalformed, m.Kind, Lend)
		}
	}
}

// Ready is the second step: it says that the receiver could serve, and waits for the sender's
// Commit, or for its end. When it returns nil the receiver has to serve and to call Committed.
// After an error it has to call Abort, once it has closed what would be in the sender's way.
func (r Receiver) Ready(ctx context.Context) error {
	defer r.interruptOn(ctx)()
	err := r.Send(Message{Kind: Ready}, turn)
	if err == nil || hasEnded(err) { // the sender may have sent Abort before
		_, err = r.Expect(Commit, preparation)
	}
	if hasEnded(err) {
		return nil
	}
	return err
}

// Committed is the last step: the receiver serves. It waits until the sender has released
// everything or has ended, and closes the connection. The error is that the sender did neither
// in time.
func (r Receiver) Committed() error {
	err := r.Send(Message{Kind: Committed}, turn)
	if err == nil {
		_, err = r.Expect(Released, preparation)
	}
	if hasEnded(err) {
		err = nil
	}
	return errors.Join(err, r.Close())
}
