// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package httpd

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// sizeBody is how much of an answer is kept before its header is sent: one that is shorter gets
// a Content-Length.
const sizeBody = 2 << 10

// response is an http.ResponseWriter.
type response struct {
	c     *conn
	watch watch
	body  body
	old   bool // the request is of HTTP/1.0
	head  bool // it is a HEAD
	bare  bool // it has no body
	// expects is whether the client asks before it sends the body.
	expects bool
	keep    bool // the connection may have another request
	// duplex is whether the body is read while the answer is written.
	duplex bool
	// timed is whether the connection has a deadline for writes.
	timed atomic.Bool

	header http.Header
	status int // zero: WriteHeader was not called

	// What WriteHeader has seen in the header; the rest of that is in c.w.
	typed, dated bool
	connection   string
	length       int64 // of its Content-Length; -1: none

	sent    bool // the whole header is in c.w
	over    bool // finish was called
	chunked bool
	written int64  // bytes of content
	buf     []byte // content that is not in c.w, in block
	block   *[sizeBody]byte
}

// Header returns the header, which WriteHeader sends.
func (w *response) Header() http.Header {
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}

// Fields that are not written as the handler has set them. An answer without content has no fields
// about it.
var (
	framing = map[string]bool{"Connection": true, "Content-Length": true, "Transfer-Encoding": true, "Trailer": true}
	content = map[string]bool{"Connection": true, "Content-Length": true, "Transfer-Encoding": true, "Trailer": true, "Content-Type": true}
)

// hasContent reports whether answers of a status have a content (RFC 9110 section 6.4.1).
func hasContent(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// WriteHeader fixes the status and the header. Of those of 1xx, except 101, there may be several
// before the last.
func (w *response) WriteHeader(status int) {
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("invalid status %d", status)) //nolint:forbidigo // as net/http does: WriteHeader returns no error
	}
	c := w.c
	if w.status != 0 || w.usable() != nil {
		c.server.Log.Warn("the handler has sent another header", "status", status)
		return
	}
	informs := status < 200 && status != http.StatusSwitchingProtocols
	if (!informs || status == http.StatusContinue) && w.body.withdraw() && !informs {
		w.keep = false // it is unknown whether the client sends the body
	}
	// Errors of writing stay with the writer.
	w.statusLine(status)
	if informs {
		_ = w.header.WriteSubset(c.w, framing)
		_, _ = c.w.WriteString("\r\n")
		_ = c.w.Flush()
		return
	}
	w.status = status
	exclude := framing
	if status == http.StatusNotModified {
		exclude = content
	}
	_ = w.header.WriteSubset(c.w, exclude)
	_, w.typed = w.header["Content-Type"]
	_, w.dated = w.header["Date"]
	w.typed = w.typed || w.header.Get("Content-Encoding") != ""
	w.connection = w.header.Get("Connection")
	if text := w.header.Get("Content-Length"); text != "" {
		n, err := strconv.ParseUint(text, 10, 63)
		if err != nil {
			c.server.Log.Warn("the handler has set a wrong Content-Length", "value", text)
			return
		}
		w.length = int64(n)
	}
}

func (w *response) statusLine(status int) {
	b := append(w.c.w.AvailableBuffer(), "HTTP/1.1 "...)
	if w.old {
		b[len("HTTP/1.")] = '0'
	}
	b = append(strconv.AppendInt(b, int64(status), 10), ' ')
	if text := http.StatusText(status); text != "" {
		b = append(b, text...)
	} else {
		b = strconv.AppendInt(append(b, "status code "...), int64(status), 10)
	}
	_, _ = w.c.w.Write(append(b, "\r\n"...))
}

// Write writes content.
func (w *response) Write(p []byte) (int, error) {
	if err := w.admit(len(p)); err != nil {
		return 0, err
	}
	for rest := p; ; {
		n := copy(w.buf[len(w.buf):cap(w.buf)], rest)
		w.buf = w.buf[:len(w.buf)+n]
		if rest = rest[n:]; len(rest) == 0 {
			return len(p), nil
		}
		err := w.push(false)
		if err == nil && len(rest) > cap(w.buf) {
			if err = w.emit(rest); err == nil {
				return len(p), nil
			}
		}
		if err != nil {
			return len(p) - len(rest), err
		}
	}
}

// WriteString is Write of a string.
func (w *response) WriteString(s string) (int, error) {
	if err := w.admit(len(s)); err != nil {
		return 0, err
	}
	for rest := s; ; {
		n := copy(w.buf[len(w.buf):cap(w.buf)], rest)
		w.buf = w.buf[:len(w.buf)+n]
		if rest = rest[n:]; rest == "" {
			return len(s), nil
		}
		if err := w.push(false); err != nil {
			return len(s) - len(rest), err
		}
	}
}

// admit counts content that is to be written.
func (w *response) admit(n int) error {
	if err := w.usable(); err != nil {
		return err
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	switch {
	case n == 0:
		return nil
	case !hasContent(w.status):
		return http.ErrBodyNotAllowed
	}
	w.written += int64(n)
	if w.length >= 0 && w.written > w.length {
		return http.ErrContentLength // the connection is closed
	}
	return nil
}

// usable returns why nothing may be written.
func (w *response) usable() error {
	switch {
	case w.c.hijacked:
		return http.ErrHijacked
	case w.over:
		return errOver
	}
	return nil
}

var errOver = errors.New("the handler has returned")

// push puts what is in buf into c.w, and before it the header.
func (w *response) push(whole bool) error {
	if !w.sent {
		w.send(whole)
	}
	err := w.emit(w.buf)
	w.buf = w.buf[:0]
	return err
}

// emit writes content behind the header.
func (w *response) emit(p []byte) error {
	if w.head || len(p) == 0 {
		return nil
	}
	out := w.c.w
	if !w.chunked {
		_, err := out.Write(p)
		return err
	}
	b := strconv.AppendInt(out.AvailableBuffer(), int64(len(p)), 16)
	_, _ = out.Write(append(b, "\r\n"...)) // the error comes again
	_, _ = out.Write(p)
	_, err := out.WriteString("\r\n")
	return err
}

// send completes the header. If whole, what is in buf is all of the content.
func (w *response) send(whole bool) {
	w.sent = true
	has := hasContent(w.status)
	// Of a HEAD without content, it is not known whether a GET has some.
	if whole && has && w.length < 0 && (!w.head || len(w.buf) > 0) {
		w.length = int64(len(w.buf))
	}
	if !has {
		w.length = -1
	}
	if strings.EqualFold(w.connection, "close") || w.c.server.isClosing() || w.old && has && !w.head && w.length < 0 {
		w.keep = false
	}
	// A client that was asked to send its body, but did not all, is not asked for the rest.
	if w.expects && !w.body.isEnded() {
		w.keep = false
	}
	// Many clients read the answer only when they have sent all of the request.
	if w.keep && !w.duplex {
		w.keep = w.body.discard()
	}
	w.chunked = has && !w.head && !w.old && w.length < 0
	b := w.c.w.AvailableBuffer()
	if !w.dated {
		b = append(time.Now().UTC().AppendFormat(append(b, "Date: "...), http.TimeFormat), "\r\n"...)
	}
	if w.length >= 0 {
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), w.length, 10), "\r\n"...)
	}
	if has && !w.typed && len(w.buf) > 0 {
		b = append(append(append(b, "Content-Type: "...), http.DetectContentType(w.buf)...), "\r\n"...)
	}
	switch {
	case !w.keep && w.status != http.StatusSwitchingProtocols:
		b = append(b, "Connection: close\r\n"...)
	case w.connection != "":
		b = append(append(append(b, "Connection: "...), line(w.connection)...), "\r\n"...)
	case w.old:
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	if w.chunked {
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	_, _ = w.c.w.Write(append(b, "\r\n"...))
}

// line is a field's value in one line, as http.Header.Write makes it.
func line(s string) string { return strings.NewReplacer("\n", " ", "\r", " ").Replace(s) }

// Flush and FlushError send what was written.
func (w *response) Flush() { _ = w.FlushError() }

// FlushError is Flush with the error.
func (w *response) FlushError() error {
	if err := w.usable(); err != nil {
		return err
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if err := w.push(false); err != nil {
		return err
	}
	return w.c.w.Flush()
}

// finish ends the answer.
func (w *response) finish() next {
	c := w.c
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	_ = w.push(true)
	if w.chunked {
		_, _ = c.w.WriteString("0\r\n\r\n")
	}
	_ = c.w.Flush() // connWriter notes the error
	w.watch.stop()
	if w.keep {
		w.keep = w.body.discard()
	}
	w.body.close()
	w.over = true
	c.server.bodies.Put(w.block)
	if w.timed.Load() {
		_ = c.nc.SetWriteDeadline(time.Time{}) // if it fails, so does writing
	}
	short := w.length >= 0 && w.written != w.length && !w.head
	switch {
	case c.failed || short:
		return ended
	case w.keep:
		return again
	case !w.body.ended || c.r.Buffered() > 0:
		return sending
	}
	return ended
}

// SetReadDeadline, SetWriteDeadline, EnableFullDuplex and Hijack are for http.ResponseController.
func (w *response) SetReadDeadline(t time.Time) error { return w.c.nc.SetReadDeadline(t) }

// SetWriteDeadline holds until the answer is complete.
func (w *response) SetWriteDeadline(t time.Time) error {
	w.timed.Store(true)
	return w.c.nc.SetWriteDeadline(t)
}

// EnableFullDuplex leaves the body to the handler when the answer is sent.
func (w *response) EnableFullDuplex() error {
	w.duplex = true
	return nil
}

// Hijack gives the connection to the caller, who closes it.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c := w.c
	if err := w.usable(); err != nil {
		return nil, nil, err
	}
	w.body.withdraw()
	if w.status != 0 {
		if err := w.FlushError(); err != nil {
			return nil, nil, err
		}
	}
	w.watch.stop()
	if err := c.nc.SetDeadline(time.Time{}); err != nil {
		return nil, nil, err
	}
	c.hijacked = true
	c.server.remove(c)
	return c.nc, bufio.NewReadWriter(c.r, c.w), nil
}
