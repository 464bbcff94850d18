// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

const (
	// turn bounds the wait for what the other side does at once.
	turn = 5 * time.Second
	// preparation bounds the wait for a taker to become ready, and for a giver to come to
	// an end of what it is doing: an engine that opens with 60,000 mappings takes seconds.
	preparation = 30 * time.Second
)

// Await is the giver's first step: it waits for Begin. Nothing has changed after an error.
func (c *Conn) Await() error {
	m, err := c.Expect(Begin, turn)
	if err == nil && m.Text != Version {
		err = fmt.Errorf("hand over: the other process speaks %q, and this one %q", m.Text, Version)
	}
	if err != nil {
		return c.Refuse(err)
	}
	return nil
}

// Lend is the giver's second step: it sends the sockets and waits until the taker is
// ready. After an error the other side has been told No, and the giver is to go on.
func (c *Conn) Lend(sockets []Socket) error {
	count := strconv.Itoa(len(sockets))
	for len(sockets) > 0 {
		n := min(len(sockets), MaxSockets)
		if err := c.Send(Message{Kind: Lend, Sockets: sockets[:n]}, turn); err != nil {
			return c.Refuse(err)
		}
		sockets = sockets[n:]
	}
	if err := c.Send(Message{Kind: All, Text: count}, turn); err != nil {
		return c.Refuse(err)
	}
	if _, err := c.Expect(Ready, preparation); err != nil {
		return c.Refuse(err)
	}
	return nil
}

// Yield is the giver's third step: it lets the taker have it, and waits until that says
// that it does. From here on it is the taker's: a giver that waits no longer is not to go
// on, and so waits without end. An error is that the taker has ended, and the giver is to
// go on.
func (c *Conn) Yield() error {
	if err := c.Send(Message{Kind: Yours}, turn); err != nil {
		return err
	}
	_, err := c.Expect(Done, 0)
	return err
}

// Leave is the giver's last step. It has left, whatever the taker hears.
func (c *Conn) Leave() error { return errors.Join(c.Send(Message{Kind: Left}, turn), c.Close()) }

// Refuse tells the other side No, closes the connection, and returns the reason.
func (c *Conn) Refuse(reason error) error {
	var refused *RefusedError
	if !errors.As(reason, &refused) && !errors.Is(reason, io.EOF) {
		// If it cannot be told, it hears nothing more.
		_ = c.Send(Message{Kind: No, Text: oneLine(reason.Error())}, turn)
	}
	return errors.Join(reason, c.Close())
}

// Ask is the taker's first step: it asks for the sockets and returns them. They are the
// caller's, also those that have come before an error. The error is io.EOF if the giver
// has ended before it had sent all.
func (c *Conn) Ask() (sockets []Socket, err error) {
	if err := c.Send(Message{Kind: Begin, Text: Version}, turn); err != nil {
		if hasEnded(err) {
			err = io.EOF
		}
		return nil, err
	}
	for wait := preparation; ; wait = turn {
		m, err := c.Receive(wait)
		switch {
		case err != nil:
			return sockets, err
		case m.Kind == Lend:
			sockets = append(sockets, m.Sockets...)
		case m.Kind == All && m.Text == strconv.Itoa(len(sockets)):
			return sockets, nil
		case m.Kind == All:
			return sockets, fmt.Errorf("receive: %w: %d sockets have come of %s", ErrMalformed, len(sockets), m.Text)
		default:
			return sockets, fmt.Errorf("receive: %w: %s where %s was due", ErrMalformed, m.Kind, Lend)
		}
	}
}

// Accept is the taker's second step: it is ready. When it returns nil, the sockets are
// this process's to serve, because the giver said so or because it has ended, and Finish
// has to follow, which Interrupt does not prevent. After an error Refuse has to, as soon as
// nothing is in the giver's way.
func (c *Conn) Accept() error {
	err := c.Send(Message{Kind: Ready}, turn)
	if err == nil || hasEnded(err) { // it may have said No before
		_, err = c.Expect(Yours, preparation)
	}
	if err != nil && !hasEnded(err) {
		return err
	}
	c.settle()
	return nil
}

// Finish is the taker's last step: it serves. It waits until the giver has left, or has
// ended; the error is that it did neither in time, and it ends the connection.
func (c *Conn) Finish() error {
	err := c.Send(Message{Kind: Done}, turn)
	if err == nil {
		_, err = c.Expect(Left, preparation)
	}
	if hasEnded(err) {
		err = nil
	}
	return errors.Join(err, c.Close())
}
