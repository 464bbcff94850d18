// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package httpd

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// body is the body of a request.
type body struct {
	io.ReadCloser // of http.ReadRequest; it is not closed, which would read all of it
	w             *response

	mu        sync.Mutex
	continues bool // the client is to be told that it may send it
	ended     bool // it was read to its end
	broken    bool // it cannot be read to its end
	closed    bool
}

// Read reads from the body.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	return b.read(p)
}

func (b *body) read(p []byte) (int, error) {
	if b.continues {
		b.continues = false
		if err := b.ask(); err != nil {
			return 0, err
		}
	}
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		if !b.ended {
			b.ended = true
			b.w.watch.allow()
		}
	default:
		b.broken = true
		if !errors.As(err, new(*http.MaxBytesError)) {
			b.w.c.cancel()
		}
	}
	return n, err
}

// ask tells the client to send the body. A client that does not read that is given up: the write has the deadline
// that the answer has, or one of its own.
func (b *body) ask() error {
	c := b.w.c
	timed := b.w.timed.Load()
	if !timed {
		_ = c.nc.SetWriteDeadline(time.Now().Add(c.server.HeaderTimeout)) // if it fails, so does writing
	}
	_, err := io.WriteString(c.w, "HTTP/1.1 100 Continue\r\n\r\n")
	if err == nil {
		err = c.w.Flush()
	}
	if !timed {
		_ = c.nc.SetWriteDeadline(time.Time{})
	}
	return err
}

// Close leaves the rest of the body unread.
func (b *body) Close() error {
	b.close()
	return nil
}

func (b *body) isEnded() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended
}

func (b *body) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
}

// withdraw does not tell the client to send the body any more, because there is an answer.
func (b *body) withdraw() (unasked bool) {
	if b.w.bare {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	unasked = b.continues
	b.continues = false
	return unasked
}

// maxDiscard is how many bytes of a body that the handler has left are read, so that the
// connection may be used again.
const maxDiscard = 256 << 10

// discard reads the rest of the body, and reports whether that was all of it.
func (b *body) discard() bool {
	if b.w.bare {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || b.broken || b.w.c.nc.SetReadDeadline(time.Now().Add(b.w.c.server.HeaderTimeout)) != nil {
		return b.ended
	}
	buf := make([]byte, 8<<10)
	for n := 0; !b.ended && !b.broken && n <= maxDiscard; {
		some, _ := b.read(buf) // an error breaks it
		n += some
	}
	return b.ended
}

// watch is the context of a request. When somebody asks for its end, and the body was read, a
// goroutine waits for the client to go.
type watch struct {
	context.Context
	c *conn

	mu      sync.Mutex
	asked   bool
	ready   bool          // the body was read to its end
	over    bool          // the answer is complete
	running chan struct{} // closed when the goroutine ends; nil: there is none
}

// Done and Err are those of context.Context.
func (w *watch) Done() <-chan struct{} {
	w.ask()
	return w.Context.Done()
}

func (w *watch) Err() error {
	w.ask()
	return w.Context.Err()
}

func (w *watch) ask() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.asked {
		w.asked = true
		w.start()
	}
}

// allow says that nobody reads from the connection any more.
func (w *watch) allow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ready = true
	w.start()
}

func (w *watch) start() {
	if !w.asked || !w.ready || w.over || w.running != nil {
		return
	}
	w.running = make(chan struct{})
	_ = w.c.nc.SetReadDeadline(time.Time{})
	go w.run()
}

// run waits for the client to close, or for what it sends next, which stays in the buffer.
func (w *watch) run() {
	defer close(w.running)
	r := w.c.r
	for r.Buffered() < r.Size() {
		if _, err := r.Peek(r.Buffered() + 1); err != nil {
			// A deadline is that of stop, or the handler's.
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				w.c.cancel()
			}
			return
		}
	}
}

// stop ends the goroutine. Nothing starts it again.
func (w *watch) stop() {
	w.mu.Lock()
	w.over = true
	running := w.running
	w.mu.Unlock()
	if running != nil {
		_ = w.c.nc.SetReadDeadline(past)
		<-running
	}
}
