// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package unixhttp

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Do sends a request with a document of JSON, unless that is nil, and fields of its header, and returns the answer. The
// connection ends with its body, which the caller closes, or with an error. When ctx is done, the error
// is that of ctx, also of reading the body.
func Do(ctx context.Context, nc net.Conn, method, path string, doc []byte, fields ...string) (*http.Response, error) {
	b := &body{nc: nc, ctx: ctx}
	b.stop = context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	fields = append(fields, "Connection: close")
	if doc != nil {
		fields = append(fields, "Content-Type: application/json", "Content-Length: "+strconv.Itoa(len(doc)))
	}
	resp, err := RoundTrip(nc, method, path, doc, fields...)
	if err != nil {
		err = b.failure(err)
		_ = b.Close() // nothing is to be read
		return nil, err
	}
	b.of, resp.Body = resp.Body, b
	return resp, nil
}

// RoundTrip sends a request with a document, unless that is nil, and reads the answer, of which the
// body remains to be read. The connection stays open.
func RoundTrip(nc net.Conn, method, path string, doc []byte, fields ...string) (*http.Response, error) {
	b := append([]byte(method+" "+path), " HTTP/1.1\r\nHost: localhost\r\n"...) // HTTP requires a host
	for _, f := range fields {
		b = append(append(b, f...), "\r\n"...)
	}
	_, sendErr := nc.Write(append(b, "\r\n"...))
	if sendErr == nil && doc != nil {
		_, sendErr = nc.Write(doc)
	}
	// A server that refuses a request may answer before it has read all of it.
	r := bufio.NewReader(nc)
	if _, err := r.Peek(1); err != nil { // of io.EOF, ReadResponse makes another error
		if sendErr != nil {
			err = sendErr
		}
		return nil, err
	}
	return http.ReadResponse(r, nil)
}

// body is that of an answer, whose connection ends with it.
type body struct {
	nc   net.Conn
	ctx  context.Context
	stop func() bool
	of   io.Reader
}

// Read reads from the body.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.of.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.failure(err)
	}
	return n, err
}

// failure is the error of the context if that is why the connection failed.
func (b *body) failure(err error) error {
	if done := b.ctx.Err(); done != nil {
		return done
	}
	return err
}

// Close closes the connection.
func (b *body) Close() error {
	b.stop()
	return b.nc.Close()
}
