// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

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

// The requests of a client are written here, and not by http.Client, with which a program has a
// megabyte of TLS and of names in other scripts: a request has a line, three fields and a
// document, and needs a connection of its own. If the server closed an idle one while a request
// is being sent, it would be unknown whether the request was carried out.

// exchange sends a request with a document, unless that is nil, and returns the answer. The
// caller closes its body.
func (c *Client) exchange(ctx context.Context, method, path string, doc []byte) (*http.Response, error) {
	nc, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	a := &answerBody{nc: nc, ctx: ctx}
	a.stop = context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	fields := []string{"Connection: close"}
	if doc != nil {
		fields = append(fields, "Content-Type: "+typeJSON, "Content-Length: "+strconv.Itoa(len(doc)))
	}
	resp, err := roundTrip(nc, method, path, doc, fields...)
	if err != nil {
		err = a.failure(err)
		_ = a.Close() // was only read
		return nil, err
	}
	a.body, resp.Body = resp.Body, a
	return resp, nil
}

// roundTrip sends a request and reads the answer, of which the body remains to be read.
func roundTrip(nc net.Conn, method, path string, doc []byte, fields ...string) (*http.Response, error) {
	b := append([]byte(method+" "+path), " HTTP/1.1\r\nHost: nftnat\r\n"...) // HTTP requires a host
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

// answerBody is the body of an answer, whose connection ends with it.
type answerBody struct {
	nc   net.Conn
	ctx  context.Context
	stop func() bool
	body io.Reader
}

// Read reads from the body.
func (a *answerBody) Read(p []byte) (int, error) {
	n, err := a.body.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = a.failure(err)
	}
	return n, err
}

// failure is the error of the context if that is why the connection failed.
func (a *answerBody) failure(err error) error {
	if done := a.ctx.Err(); done != nil {
		return done
	}
	return err
}

// Close closes the connection.
func (a *answerBody) Close() error {
	a.stop()
	return a.nc.Close()
}
