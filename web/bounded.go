// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"errors"
	"net"
	"net/netip"
	"sync"
)

const (
	// maxConnections is how many connections there are at once; further clients wait in the kernel's
	// queue. maxOfSource is how many of them one address can have; more are closed.
	maxConnections = 64
	maxOfSource    = 16
)

// bounded is a listener with a bounded number of connections of each address.
type bounded struct {
	net.Listener

	mu      sync.Mutex
	sources map[netip.Addr]int
}

// Accept returns a connection that gives its place back when it is closed.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		nc, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &boundedConn{Conn: nc, of: b, source: sourceOf(nc)}
		b.mu.Lock()
		b.sources[c.source]++
		over := b.sources[c.source] > maxOfSource
		b.mu.Unlock()
		if !over {
			return c, nil
		}
		_ = c.Close() // it is refused
	}
}

// sourceOf is the address of a client; all of an IPv6 prefix of 64 bits are one.
func sourceOf(nc net.Conn) netip.Addr {
	ap, err := netip.ParseAddrPort(nc.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	a := ap.Addr().Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			a = p.Addr()
		}
	}
	return a
}

// boundedConn is a connection that counts.
type boundedConn struct {
	net.Conn
	of     *bounded
	source netip.Addr
	once   sync.Once
}

// Close closes the connection, which counts no more.
func (c *boundedConn) Close() error {
	c.once.Do(func() {
		c.of.mu.Lock()
		defer c.of.mu.Unlock()
		if c.of.sources[c.source]--; c.of.sources[c.source] == 0 {
			delete(c.of.sources, c.source)
		}
	})
	return c.Conn.Close()
}

// CloseWrite closes the connection for writing, so that the client can read what was written.
func (c *boundedConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}
