// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"
)

const (
	// askTime is the time-out if the context has no deadline: a lost SYN is sent again
	// after one second and after three (RFC 6298, section 2).
	askTime = 15 * time.Second
	// askTries is how often a datagram is sent before it counts as unanswered.
	askTries = 3
	// maxLine is far more than a name and an address need.
	maxLine = 512
)

// Ask connects from inside ns to one of this package's servers, by TCP or UDP
// ("tcp", "udp", or either with a 4 or 6 behind it), and returns the name that
// answered and the client's address as the server sees it. With TCP it also
// has some bytes echoed and checks that half-closing works both ways. If from
// is zero, the kernel chooses the local address and port.
//
// The error is syscall.ECONNREFUSED where the port is closed, and
// os.ErrDeadlineExceeded (whose Timeout method is true) where nothing answers before the
// deadline of ctx, or within 15 seconds if it has none. A datagram is sent at most three
// times before the deadline.
func Ask(ctx context.Context, ns *NS, network, addr string, from netip.AddrPort) (name string, peer netip.AddrPort, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	defer func() {
		if err != nil {
			err = fmt.Errorf("ask %s %s: %w", network, addr, err)
		}
	}()
	c, err := ns.DialFrom(ctx, network, addr, from)
	if err != nil {
		return "", netip.AddrPort{}, deadline(ctx, err)
	}
	defer func() { _ = c.Close() }()
	// When ctx is cancelled, reads and writes return.
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	token := []byte(rand.Text() + "\n")
	var answer []byte
	if tcp, ok := c.(*net.TCPConn); ok {
		answer, err = askStream(tcp, token)
	} else {
		answer, err = askDatagram(ctx, c, token)
	}
	if err != nil {
		return "", netip.AddrPort{}, deadline(ctx, err)
	}
	line, found := bytes.CutSuffix(answer, token)
	if !found {
		return "", netip.AddrPort{}, fmt.Errorf("%q is not an answer to %q", answer, token)
	}
	return parseWhoami(string(line))
}

// deadline returns the error for the way in which ctx ended: package net has two errors
// for a time-out, and returns one of them for a cancelled context as well.
func deadline(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return context.Cause(ctx)
	case ctx.Err() != nil && !errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w (%w)", os.ErrDeadlineExceeded, err)
	}
	return err
}

func askStream(c *net.TCPConn, token []byte) ([]byte, error) {
	if _, err := c.Write(token); err != nil {
		return nil, err
	}
	if err := c.CloseWrite(); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(c, maxLine))
}

func askDatagram(ctx context.Context, c net.Conn, token []byte) ([]byte, error) {
	end, _ := ctx.Deadline()
	wait := time.Until(end) / (1<<askTries - 1) // 1, 2, 4 parts of it
	buf := make([]byte, maxLine)
	for try := range askTries {
		if _, err := c.Write(token); err != nil {
			return nil, err
		}
		if err := c.SetReadDeadline(time.Now().Add(wait << try)); err != nil {
			return nil, err
		}
		n, err := c.Read(buf)
		switch {
		case err == nil:
			return buf[:n], nil
		case !errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil:
			return nil, err
		}
	}
	return nil, fmt.Errorf("no answer to %d datagrams: %w", askTries, os.ErrDeadlineExceeded)
}

// AskHTTP sends GET / to an [EchoHTTP] server from inside ns and returns what
// [Ask] returns, with the same errors. Each call uses a connection of its own.
func AskHTTP(ctx context.Context, ns *NS, addr string) (name string, peer netip.AddrPort, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	c, err := ns.Dial(ctx, "tcp", addr)
	if err != nil {
		return "", netip.AddrPort{}, fmt.Errorf("ask http %s: %w", addr, deadline(ctx, err))
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	body, err := get(c)
	if err != nil {
		return "", netip.AddrPort{}, fmt.Errorf("ask http %s: %w", addr, deadline(ctx, err))
	}
	return parseWhoami(body)
}

func get(c net.Conn) (body string, err error) {
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Body.Close() }()
	if r.StatusCode != http.StatusOK {
		return "", errors.New(r.Status)
	}
	text, err := io.ReadAll(io.LimitReader(r.Body, maxLine))
	return string(text), err
}
