// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// ErrClosed is returned by methods of a closed proxy, socket or group.
var ErrClosed = errors.New("proxy closed")

// ErrAddr is wrapped by errors about addresses that cannot be a frontend or a
// backend: wrong type, port out of range, not an address to connect to.
var ErrAddr = errors.New("bad address")

// Proxy carries what arrives at a frontend to a backend, and the answers back.
//
// A Proxy holds its port from the beginning, and answers nothing until it is
// opened. All methods are safe for concurrent use.
type Proxy interface {
	// Run opens the proxy and serves until ctx ends or Close or Shutdown is
	// called, then closes it and returns nil. ErrClosed: it was closed
	// before.
	Run(ctx context.Context) error

	// Open begins serving and returns; the loops of the group do the work.
	// Connections made and SYNs sent again before are served. To open an open
	// proxy does nothing; ErrClosed: it is closed. After any error it is closed.
	Open() error

	// Shutdown takes nothing new, waits until the live connections or flows
	// have ended or ctx has, and closes the proxy. A UDP flow ends by a second
	// of silence. It returns the error of ctx if that ended any.
	Shutdown(ctx context.Context) error

	// Retire gives the port back at once and does not wait, but live TCP
	// connections, and those in the queue, go on until they end. UDP flows
	// end, and so do connections that the backend has not answered. The proxy then counts as a former one (Group.Former), and Close and
	// Shutdown still end it; Close must follow if its group is its own.
	// Another program that binds the port while connections live needs
	// SO_REUSEADDR, as package net sets it. A proxy that was never opened is
	// closed; one that is closed, retired or shutting down stays so.
	Retire() error

	// Close gives the port back, resets live connections, ends flows, and waits
	// until all that the proxy started has ended. A second Close does nothing.
	Close() error

	// FrontendAddr is the address served, a *net.TCPAddr or *net.UDPAddr,
	// with the port that the kernel chose if 0 was asked for.
	FrontendAddr() net.Addr

	// Descriptor is that of the frontend's socket, to pass to another process
	// (see Group.Leave); it still belongs to the proxy. -1: there is none any
	// more.
	Descriptor() int

	// BackendAddr is the address that the proxy leads to.
	BackendAddr() net.Addr

	// SetBackend changes that address. Connections keep the backend that they
	// have; those that it has not answered get the new one. UDP flows begin again
	// with the next datagram. ErrAddr: the address
	// is not of the frontend's protocol; ErrClosed: the proxy is closed.
	SetBackend(net.Addr) error

	// Reset ends the live connections, by a reset on both sides, and flows, and
	// goes on serving. ErrClosed: the proxy is closed.
	Reset() error

	// ResetAddr is Reset for those connections and flows alone that have the
	// address as a local one, towards the client or the backend: it is for an
	// address that the host no longer has. An IPv6 zone is a number, as in
	// FrontendAddr; without one those of each zone end. ErrClosed: the proxy is
	// closed, and so are they.
	ResetAddr(netip.Addr) error

	// ResetClients is Reset for those connections and flows alone whose client has an
	// address that matches. Addresses are without zones, and IPv4 ones not mapped. The
	// function is called on other goroutines, one call at a time. ErrClosed: the proxy is
	// closed, and so are they.
	ResetClients(func(netip.Addr) bool) error

	// Stats reads the counters, also of a closed proxy.
	Stats() Stats
}

// Defaults of Options.
const (
	DefaultDialTimeout = 5 * time.Second  // until the backend has answered a SYN
	DefaultKeepAlive   = 15 * time.Second // as package net has it
	DefaultFlowTimeout = 90 * time.Second // as Docker's UDP proxy of 2013
	DefaultMaxFlows    = 65536            // as many as one client address has ports
)

// Options configures a proxy. The zero value and nil are the defaults.
type Options struct {
	// Group serves the proxy. nil: a group of its own with default options,
	// closed with it. A process with many proxies should share one.
	Group *Group

	// V6Only keeps IPv4 out of a frontend [::] (ipv6(7), IPV6_V6ONLY).
	// false: it serves both families. Only Bind uses it.
	V6Only bool

	// FreeBind binds also an address that the host does not have, or has not
	// finished to configure (ip(7), IP_FREEBIND): clients reach it as soon as
	// the host has it. false: such an address is an error. Only Bind uses it.
	FreeBind bool

	// share lets others that do so bind the address and port too (SO_REUSEADDR). It is so for TCP.
	share bool

	// BeforeBind is called with the descriptor of each socket that is about to be bound: that of
	// the frontend, by Bind, and those of the flows of Ports. An error is that of the
	// bind. It must not block. Nil: nothing is called.
	BeforeBind func(fd int) error

	// DialTimeout bounds connecting to a TCP backend; the client then gets a
	// reset. 0: DefaultDialTimeout.
	DialTimeout time.Duration

	// KeepAlive is the silence after which TCP probes a peer, and the time
	// between probes, rounded to seconds, at least 1. A backend is probed from
	// the first second of a connection on. 0: DefaultKeepAlive. Negative: never.
	KeepAlive time.Duration

	// IdleTimeout ends connections (by a reset) and flows that carried nothing
	// in either direction for that long. 0: never for TCP, DefaultFlowTimeout
	// for UDP. Negative: never.
	IdleTimeout time.Duration

	// MaxFlows bounds the flows of a UDP proxy; one more replaces the one
	// silent longest. 0: DefaultMaxFlows.
	MaxFlows int
}

// filled returns a copy with defaults in place of zeros.
func (o *Options) filled() Options {
	var f Options
	if o != nil {
		f = *o
	}
	if f.DialTimeout <= 0 {
		f.DialTimeout = DefaultDialTimeout
	}
	if f.KeepAlive == 0 {
		f.KeepAlive = DefaultKeepAlive
	}
	if f.MaxFlows <= 0 {
		f.MaxFlows = DefaultMaxFlows
	}
	return f
}

// New binds frontend and returns the proxy that will carry it to backend once
// it is opened. Both are *net.TCPAddr or both *net.UDPAddr; their families may
// differ. The frontend's port may be 0. Errors are those of Bind, and ErrAddr.
func New(frontend, backend net.Addr, opts *Options) (Proxy, error) {
	s, err := Bind(frontend, opts)
	if err != nil {
		return nil, err
	}
	p, err := s.Proxy(backend, opts)
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	return p, nil
}

// Proxy makes a proxy, not open yet, which owns the socket from then on. After an
// error the Socket holds its port as before, silently; but ErrClosed means that it
// is closed or already belongs to a proxy.
func (s *Socket) Proxy(backend net.Addr, opts *Options) (Proxy, error) {
	p, err := s.proxy(backend, opts)
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", s.Addr(), err)
	}
	return p, nil
}

func (s *Socket) proxy(backend net.Addr, opts *Options) (Proxy, error) {
	to, err := newDestination(s.network, backend)
	if err != nil {
		return nil, err
	}
	return s.become(to, nil, opts)
}

// become makes a proxy for one backend, or for those of a function.
func (s *Socket) become(to *destination, backends Backends, opts *Options) (Proxy, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return nil, ErrClosed
	}
	if s.refusing {
		if err := listenAgain(s.fd); err != nil {
			return nil, err
		}
		s.refusing = false
	}
	b := base{opts: opts.filled(), fd: s.fd, filtered: s.filtered, frontend: s.Addr()}
	b.target.Store(to)
	b.backends = backends
	b.group = b.opts.Group
	var p served
	var err error
	if s.network == "tcp" {
		p = newTCP(&b)
	} else if p, err = newUDP(&b, s.addr); err != nil {
		return nil, err
	}
	if b.group != nil {
		if err := b.group.join(&b); err != nil {
			return nil, err
		}
	}
	s.fd = -1
	return p, nil
}
