// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Proxy carries what arrives at a frontend to a backend and the answers back.
//
// A Proxy holds its port from the moment it exists, and answers nothing until
// it is opened. All methods are safe for concurrent use.
type Proxy interface {
	// Run opens the proxy and serves until ctx ends or Close or Shutdown is
	// called, then closes it and returns nil. ErrClosed: it was closed
	// before.
	Run(ctx context.Context) error

	// Open begins serving and returns; the group's loops do the work. What
	// the kernel kept back or a client sent again meanwhile is served.
	// Opening an open proxy does nothing; ErrClosed: it is closed. After any
	// error the proxy is closed.
	Open() error

	// Shutdown stops taking new connections or flows, waits until the live
	// ones have ended or ctx has, and closes the proxy. A UDP flow has ended
	// when it was silent for a second. It returns the error of ctx if that
	// cut anything short.
	Shutdown(ctx context.Context) error

	// Retire gives the port back at once, as Close does, but lets the live
	// TCP connections go on until they end by themselves; those that the
	// kernel has let in already are served too. UDP flows end. It does not
	// wait. The proxy counts as one of the group's former ones
	// (Group.Former), and Close and Shutdown still end it. If its group is its
	// own, Close must follow. A port that other processes are to bind while
	// connections live needs SO_REUSEADDR there, as package net sets it.
	// Retiring a proxy that was never opened closes it; one that is closed,
	// retired or shutting down stays so.
	Retire() error

	// Close gives the port back, resets live connections, drops flows, and
	// waits until everything the proxy started has ended. The second Close
	// does nothing.
	Close() error

	// FrontendAddr is the address served, a *net.TCPAddr or *net.UDPAddr,
	// with the port that the kernel chose if 0 was asked for.
	FrontendAddr() net.Addr

	// Descriptor is the frontend's socket, for another process to have it too
	// (see Group.Leave); it stays the proxy's. -1: it has none any more.
	Descriptor() int

	// BackendAddr is where it leads.
	BackendAddr() net.Addr

	// SetBackend leads elsewhere from now on. Connections that are there stay
	// with the backend they have; UDP flows begin anew with the next datagram.
	// ErrAddr: the address is none of the frontend's protocol; ErrClosed: the
	// proxy is closed.
	SetBackend(net.Addr) error

	// Reset ends the connections and flows that are there, connections by a reset
	// on both sides, and goes on serving. ErrClosed: the proxy is closed.
	Reset() error

	// Stats reads the counters, also of a closed proxy.
	Stats() Stats
}

// Defaults of Options.
const (
	DefaultDialTimeout = 5 * time.Second  // until the backend has answered a SYN
	DefaultKeepAlive   = 15 * time.Second // as package net has it
	DefaultFlowTimeout = 90 * time.Second // as the first UDP proxy of this kind had it
	DefaultMaxFlows    = 65536            // as many as one client address has ports
)

// Options says how a proxy behaves. The zero value, and nil, are good
// defaults.
type Options struct {
	// Group serves the proxy. nil: a group of its own with default options,
	// closed with it. A process with many proxies should share one.
	Group *Group

	// V6Only keeps IPv4 out of a frontend [::] (ipv6(7), IPV6_V6ONLY).
	// false: it serves both families. Sockets handed in ready stay as they
	// are.
	V6Only bool

	// DialTimeout bounds connecting to a TCP backend; the client then gets a
	// reset. 0: DefaultDialTimeout.
	DialTimeout time.Duration

	// KeepAlive is the silence after which TCP asks whether a peer still
	// lives, and the time between probes, rounded to seconds, at least 1.
	// A backend is asked from the first second of a connection on.
	// 0: DefaultKeepAlive. Negative: never.
	KeepAlive time.Duration

	// IdleTimeout ends what carried nothing for so long in either direction:
	// connections by a reset, flows silently.
	// 0: never for TCP, DefaultFlowTimeout for UDP. Negative: never.
	IdleTimeout time.Duration

	// MaxFlows bounds the flows of a UDP proxy; a new one beyond it takes the
	// place of the one that was silent longest. 0: DefaultMaxFlows.
	MaxFlows int
}

// filled returns a copy in which zeros are replaced by what they mean.
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

// Proxy turns a held port into a proxy, still shut, which owns the socket
// from then on. After an error the socket holds its port as before, silently;
// but ErrClosed means it is closed or taken already.
func (s *Socket) Proxy(backend net.Addr, opts *Options) (Proxy, error) {
	network, to, err := encodeBackend(backend)
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", s.Addr(), err)
	}
	if network != s.network {
		return nil, fmt.Errorf("proxy %s: backend: %w: %s is not %s", s.Addr(), ErrAddr, backend, s.network)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return nil, fmt.Errorf("proxy %s: %w", s.Addr(), ErrClosed)
	}
	if s.refusing {
		if err := listenAgain(s.fd); err != nil {
			return nil, fmt.Errorf("proxy %s: %w", s.Addr(), err)
		}
		s.refusing = false
	}
	p, err := start(network, s.fd, s.addr, s.filtered, backend, to, opts)
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", s.Addr(), err)
	}
	s.fd = -1
	return p, nil
}

// NewTCP is New for a listener that exists already, handed over by another
// process for instance. It takes the listener: do not use it any more, also
// after an error. Connections wait in its queue until the proxy is opened.
func NewTCP(l *net.TCPListener, backend *net.TCPAddr, opts *Options) (Proxy, error) {
	return takeOver("tcp", l, backend, opts)
}

// NewUDP is New for a socket that is bound already and not connected. It takes
// the socket: do not use it any more, also after an error. Datagrams wait in
// its queue until the proxy is opened.
func NewUDP(pc *net.UDPConn, backend *net.UDPAddr, opts *Options) (Proxy, error) {
	return takeOver("udp", pc, backend, opts)
}

func takeOver(network string, c netSocket, backend net.Addr, opts *Options) (Proxy, error) {
	fd, err := adopt(c)
	if err != nil {
		return nil, fmt.Errorf("proxy %s: take socket: %w", network, err)
	}
	_, to, err := encodeBackend(backend)
	if err == nil {
		var local netip.AddrPort
		if local, err = localAddr(fd); err == nil {
			var p Proxy
			if p, err = start(network, fd, local, false, backend, to, opts); err == nil {
				return p, nil
			}
		}
	}
	closeFD(fd)
	return nil, fmt.Errorf("proxy %s: %w", network, err)
}

// start makes the proxy for a socket that is bound to local and stays the caller's
// after an error. filtered: a filter drops what arrives.
func start(network string, fd int, local netip.AddrPort, filtered bool, backend net.Addr, to *sockaddr, opts *Options) (_ Proxy, err error) {
	b := base{opts: opts.filled(), fd: fd, filtered: filtered, frontend: netAddr(network, local)}
	b.target.Store(&destination{backend, to})
	b.group = b.opts.Group
	var (
		p interface {
			Proxy
			served
		}
	)
	if network == "tcp" {
		p = newTCP(&b)
	} else {
		p, err = newUDP(&b, local)
	}
	if err != nil {
		return nil, err
	}
	if b.group != nil {
		if err := b.group.join(p); err != nil {
			return nil, err
		}
	}
	return p, nil
}
