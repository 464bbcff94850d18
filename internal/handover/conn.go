// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/peercred"
)

// Conn is one end of a handover.
type Conn struct {
	unix *net.UnixConn
	peer unix.Ucred

	mu  sync.Mutex
	ctx context.Context // guarded by mu: of the step that is under way
}

// AbortedError is an Abort of the other end.
type AbortedError struct{ Reason string }

func (e *AbortedError) Error() string { return "the other process says no: " + e.Reason }

// NewConn makes an end of a connected socket. It takes the socket over, and closes it if there
// is an error. fs.ErrPermission: the process at the other end is neither root's nor of this
// process's user.
func NewConn(c *net.UnixConn) (*Conn, error) {
	peer, err := peercred.Get(c)
	if err == nil && peer.Uid != 0 && int64(peer.Uid) != int64(os.Geteuid()) {
		err = fmt.Errorf("the other process is of user %d: %w", peer.Uid, fs.ErrPermission)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("hand over: %w", err), c.Close())
	}
	return &Conn{unix: c, peer: peer, ctx: context.Background()}, nil
}

// PID is the process that connected, or listened, at the other end; zero: it is of another
// PID namespace.
func (c *Conn) PID() int { return int(c.peer.Pid) }

// Close ends the connection.
func (c *Conn) Close() error { return c.unix.Close() }

// Abort tells the other side why the handover is over, closes the connection, and returns the
// reason.
func (c *Conn) Abort(reason error) error {
	c.setStep(context.Background())
	var aborted *AbortedError
	if !errors.As(reason, &aborted) && !errors.Is(reason, io.EOF) {
		text := strings.ReplaceAll(reason.Error(), "\n", "; ")
		// If it cannot be sent, the other side finds the connection closed.
		_ = c.Send(Message{Kind: Abort, Text: text[:min(len(text), maxBody)]}, turn)
	}
	return errors.Join(reason, c.Close())
}

// interruptOn begins a step, in which nothing is waited for any more when ctx is done. The
// step ends when the returned function is called.
func (c *Conn) interruptOn(ctx context.Context) (end func()) {
	c.setStep(ctx)
	stop := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.ctx == ctx {
			_ = c.unix.SetDeadline(time.Unix(1, 0)) // an error is that it is closed
		}
	})
	return func() {
		stop()
		c.setStep(context.Background())
	}
}

func (c *Conn) setStep(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ctx = ctx
}

// within bounds the next call; zero: not at all.
func (c *Conn) within(d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return os.ErrDeadlineExceeded
	}
	var deadline time.Time
	if d != 0 {
		deadline = time.Now().Add(d)
	}
	return c.unix.SetDeadline(deadline)
}

// Send sends a message. It waits, up to a bound, until the other end has read earlier messages.
func (c *Conn) Send(m Message, wait time.Duration) error {
	b, err := m.encode()
	if err != nil {
		return err
	}
	if err := c.within(wait); err != nil {
		return fmt.Errorf("send %s: %w", m.Kind, err)
	}
	var rights []byte
	if len(m.Sockets) != 0 {
		rights = unix.UnixRights(m.descriptors()...)
	}
	n, _, err := c.unix.WriteMsgUnix(b, rights, nil)
	if err == nil && n < len(b) {
		_, err = c.unix.Write(b[n:]) // the descriptors are with the first byte
	}
	if err != nil {
		return fmt.Errorf("send %s: %w", m.Kind, err)
	}
	return nil
}

// Receive waits for the next message, at most so long; zero: for ever. The error is io.EOF
// if the other end is closed, an *AbortedError for an Abort, and ErrMalformed.
func (c *Conn) Receive(wait time.Duration) (Message, error) {
	if err := c.within(wait); err != nil {
		return Message{}, fmt.Errorf("receive: %w", err)
	}
	m, err := c.receive()
	switch {
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.ErrUnexpectedEOF):
		err = io.EOF // it has ended with something unread
	case err == nil && m.Kind == Abort:
		err = &AbortedError{Reason: m.Text}
	}
	if err != nil {
		return Message{}, fmt.Errorf("receive: %w", err)
	}
	return m, nil
}

// Expect is Receive, of one kind: all others are ErrMalformed.
func (c *Conn) Expect(k Kind, wait time.Duration) (Message, error) {
	m, err := c.Receive(wait)
	if err == nil && m.Kind != k {
		closeAll(m.descriptors())
		err = fmt.Errorf("receive: %w: %s where %s was due", ErrMalformed, m.Kind, k)
	}
	return m, err
}

func (c *Conn) receive() (Message, error) {
	var head [headerSize]byte
	fds, err := c.readHeader(head[:])
	if err != nil {
		closeAll(fds)
		return Message{}, err
	}
	h, err := decodeHeader(head)
	if err == nil && h.sockets != len(fds) {
		err = fmt.Errorf("%w: %d sockets have come of %d", ErrMalformed, len(fds), h.sockets)
	}
	var m Message
	if err == nil {
		body := make([]byte, h.body)
		// What descriptors come with it are closed by the kernel.
		if _, err = io.ReadFull(c.unix, body); err == nil {
			m, err = h.decode(body, fds)
		}
	}
	if err != nil {
		closeAll(fds)
	}
	return m, err
}

// readHeader reads a header and the descriptors that come with it, also with an error.
// Package net has them closed on exec.
func (c *Conn) readHeader(head []byte) (fds []int, err error) {
	rights := make([]byte, unix.CmsgSpace(4*(MaxSockets+3))) // what the kernel lets through at most
	for at := 0; at < len(head); {
		n, rn, flags, _, err := c.unix.ReadMsgUnix(head[at:], rights)
		more, rightsErr := parseRights(rights[:rn])
		fds = append(fds, more...)
		switch {
		case err != nil:
			return fds, err
		case rightsErr != nil:
			return fds, rightsErr
		case flags&unix.MSG_CTRUNC != 0:
			return fds, fmt.Errorf("%w: descriptors were lost (RLIMIT_NOFILE)", unix.EMFILE)
		case n == 0:
			return fds, io.EOF
		}
		at += n
	}
	return fds, nil
}

// parseRights takes descriptors out of control messages.
func parseRights(b []byte) (fds []int, err error) {
	messages, err := unix.ParseSocketControlMessage(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	for i := range messages {
		if messages[i].Header.Level != unix.SOL_SOCKET || messages[i].Header.Type != unix.SCM_RIGHTS {
			continue // nothing else was asked for
		}
		some, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return fds, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		fds = append(fds, some...)
	}
	return fds, nil
}

func (m Message) descriptors() []int {
	fds := make([]int, len(m.Sockets))
	for i, s := range m.Sockets {
		fds[i] = s.FD
	}
	return fds
}

// closeAll closes descriptors. close(2) on Linux frees one whatever it returns.
func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// hasEnded reports whether an error is that the other process has closed its end, without
// a word.
func hasEnded(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE)
}
