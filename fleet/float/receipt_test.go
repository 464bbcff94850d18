// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package float_test

import (
	"context"
	"net"
	"time"

	"github.com/nftnat/nftnat/fleet/store"
)

// fromReceipt counts the time of a lease from when the answer came, and not from when the
// request was sent.
type fromReceipt struct {
	*store.Session
	received time.Duration
}

func (l fromReceipt) Until() time.Duration { return l.received + l.TTL() }
func (l fromReceipt) Alive() bool          { return store.Now() < l.Until() }

// late connects so that all that is received is late.
func late(delay time.Duration) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		l := &lateConn{Conn: c, chunks: make(chan chunk, 1024)}
		go l.receive(delay)
		return l, nil
	}
}

type lateConn struct {
	net.Conn
	chunks chan chunk
	unread []byte
}

type chunk struct {
	data []byte
	due  time.Time
	err  error
}

func (l *lateConn) receive(delay time.Duration) {
	for {
		b := make([]byte, 32<<10)
		n, err := l.Conn.Read(b)
		l.chunks <- chunk{b[:n], time.Now().Add(delay), err}
		if err != nil {
			return
		}
	}
}

func (l *lateConn) Read(b []byte) (int, error) {
	if len(l.unread) == 0 {
		c := <-l.chunks
		time.Sleep(time.Until(c.due))
		if c.err != nil {
			return 0, c.err
		}
		l.unread = c.data
	}
	n := copy(b, l.unread)
	l.unread = l.unread[n:]
	return n, nil
}
