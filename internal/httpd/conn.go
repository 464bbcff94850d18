// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package httpd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"time"
)

// conn is a connection. All is used by its goroutine alone, and by what the handler starts.
type conn struct {
	server *Server
	nc     net.Conn
	r      *bufio.Reader
	w      *bufio.Writer
	ctx    context.Context // the parent of those of its requests
	remote string

	posted   bool // the last request was a POST
	hijacked bool
	// failed is whether something could not be written.
	failed bool
	// cancel ends the context of the request that is being answered.
	cancel context.CancelFunc

	// Guarded by server.mu:
	asked bool // its first request has come
	busy  bool // a request is being answered
}

// past is a deadline that ends a call at once.
var past = time.Unix(1, 0)

// serve answers the requests of a connection, one after another.
func (c *conn) serve() {
	s := c.server
	c.r, _ = s.readers.Get().(*bufio.Reader)
	c.w, _ = s.writers.Get().(*bufio.Writer)
	c.r.Reset(c.nc)
	c.w.Reset(connWriter{c})
	defer s.remove(c) // the last, so that Shutdown waits for all
	defer func() {
		if c.hijacked {
			return // the reader is still used
		}
		_ = c.nc.Close() // all that matters was written, or has failed
		c.r.Reset(nil)
		c.w.Reset(nil)
		s.readers.Put(c.r)
		s.writers.Put(c.w)
	}()
	if addr := c.nc.RemoteAddr(); addr != nil {
		c.remote = addr.String()
	}
	c.ctx = context.WithValue(s.Context(c.nc), http.LocalAddrContextKey, c.nc.LocalAddr())
	for first := true; ; first = false {
		header, fault, err := c.header(first)
		if err != nil {
			return // the client has gone, or is late
		}
		var r *http.Request
		if fault == nil {
			r, fault = c.read(header)
		}
		if fault != nil {
			c.refuse(fault)
			return
		}
		if !s.begin(c) {
			return
		}
		switch c.answer(r) {
		case again:
			if !s.finish(c) {
				return
			}
		case sending:
			c.closeSlowly()
			return
		case ended:
			return
		}
	}
}

// next is what becomes of a connection after an answer.
type next uint8

const (
	ended   next = iota // it is closed
	sending             // it is closed, and the client may still send
	again               // it gets another request
)

// fault is a request that is answered without the handler.
type fault struct {
	status int
	detail string // may be empty
}

// header waits for a header, which stays in the buffer.
func (c *conn) header(first bool) ([]byte, *fault, error) {
	timeout := c.server.IdleTimeout
	if first {
		timeout = c.server.HeaderTimeout
	}
	if err := c.nc.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return nil, nil, err
	}
	for extra := 0; ; extra++ {
		b, err := c.r.Peek(1)
		if err != nil {
			return nil, nil, err
		}
		// Some clients end the body of a POST with a line of its own.
		if !c.posted || extra == 4 || b[0] != '\r' && b[0] != '\n' {
			break
		}
		_, _ = c.r.Discard(1)
	}
	for seen := 0; ; {
		n := c.r.Buffered()
		b, _ := c.r.Peek(n)
		if end := headerEnd(b, max(seen-2, 0)); end >= 0 {
			return b[:end], nil, nil
		}
		if n == c.r.Size() {
			return nil, &fault{status: http.StatusRequestHeaderFieldsTooLarge}, nil
		}
		if !first {
			first = true
			if err := c.nc.SetReadDeadline(time.Now().Add(c.server.HeaderTimeout)); err != nil {
				return nil, nil, err
			}
		}
		seen = n
		if _, err := c.r.Peek(n + 1); err != nil {
			if errors.Is(err, io.EOF) {
				return nil, &fault{status: http.StatusBadRequest}, nil
			}
			return nil, nil, err
		}
	}
}

// read parses the request whose header is in the buffer.
func (c *conn) read(header []byte) (*http.Request, *fault) {
	f := check(header)
	if f.fault != nil {
		return nil, f.fault
	}
	r, err := http.ReadRequest(c.r)
	switch {
	case err != nil:
		return nil, &fault{status: http.StatusBadRequest}
	case r.ProtoMajor != 1:
		return nil, &fault{http.StatusHTTPVersionNotSupported, "unsupported protocol version"}
	case r.ProtoMinor == 0 && f.encoded:
		return nil, &fault{http.StatusBadRequest, "transfer encoding in HTTP/1.0"}
	case r.ProtoMinor != 0 && f.hosts == 0:
		return nil, &fault{http.StatusBadRequest, "missing required Host header"}
	case r.ContentLength > c.server.MaxBody && c.server.MaxBody != 0:
		return nil, &fault{status: http.StatusRequestEntityTooLarge}
	case f.expects && !expectsContinue(r):
		return nil, &fault{status: http.StatusExpectationFailed}
	}
	r.RemoteAddr, c.posted = c.remote, r.Method == http.MethodPost
	return r, nil
}

// refuse answers a request without the handler, and is the last answer.
func (c *conn) refuse(f *fault) {
	text := fmt.Sprintf("%d %s", f.status, http.StatusText(f.status))
	if f.detail != "" {
		text += ": " + f.detail
	}
	_ = c.nc.SetWriteDeadline(time.Now().Add(lingerTime)) // it is small
	_, err := fmt.Fprintf(c.nc, "HTTP/1.1 %s\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n%s", text, text)
	if err == nil {
		c.closeSlowly()
	}
}

const (
	lingerTime = 500 * time.Millisecond
	// lingerMost is how many bytes a client may send after the last answer.
	lingerMost = 1 << 20
)

// closeSlowly ends a connection after its last answer. A socket that is closed while something that was
// sent to it has not been read makes the kernel reset the connection, and the client may lose the
// answer. So what comes is read until the client has closed, for a while.
func (c *conn) closeSlowly() {
	w, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || w.CloseWrite() != nil || c.nc.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, c.nc, lingerMost)
}

// answer has the handler answer a request.
func (c *conn) answer(r *http.Request) (what next) {
	s := c.server
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	c.cancel = cancel
	w := &response{c: c, old: r.ProtoMinor == 0, head: r.Method == http.MethodHead, bare: r.ContentLength == 0, keep: !r.Close, length: -1}
	w.watch = watch{Context: ctx, c: c, ready: w.bare}
	w.body = body{ReadCloser: r.Body, w: w, ended: w.bare}
	if !w.bare {
		if s.MaxBody != 0 {
			w.body.ReadCloser = http.MaxBytesReader(nil, r.Body, s.MaxBody)
		}
		w.expects = !w.old && expectsContinue(r)
		w.body.continues = w.expects
		r.Body = &w.body
		var late time.Time // none
		if s.BodyTimeout != 0 {
			late = time.Now().Add(s.BodyTimeout)
		}
		_ = c.nc.SetReadDeadline(late) // if it fails, so does reading
	}
	if s.WriteTimeout != 0 {
		_ = w.SetWriteDeadline(time.Now().Add(s.WriteTimeout)) // the same
	}
	w.block, _ = s.bodies.Get().(*[sizeBody]byte)
	w.buf = w.block[:0]
	defer func() {
		if v := recover(); v != nil {
			if v != http.ErrAbortHandler { //nolint:errorlint // a value of panic
				s.Log.Error("panic while a request was served", "client", c.remote, "panic", v, "stack", string(debug.Stack()))
			}
			w.watch.stop()
			w.body.close()
			what = ended
		}
	}()
	s.Handler.ServeHTTP(w, r.WithContext(&w.watch))
	if c.hijacked {
		return ended
	}
	return w.finish()
}

// connWriter writes to a connection, and ends the context of the request if that fails.
type connWriter struct{ c *conn }

func (w connWriter) Write(p []byte) (int, error) {
	n, err := w.c.nc.Write(p)
	if err != nil {
		w.c.failed = true
		w.c.cancel()
	}
	return n, err
}
