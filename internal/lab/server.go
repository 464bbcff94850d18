// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
)

// Server is a running server of this package. Each of its answers starts with a line "NAME
// PEER", where PEER is the client's address and port as the server sees them. It shows a
// test which backend answered and whether the source address was kept.
type Server struct {
	addr netip.AddrPort
	stop func() error // makes every goroutine in wg end
	once sync.Once
	err  error
	wg   sync.WaitGroup
}

// Addr returns the address the server listens on, with the port the kernel
// chose if it was asked for port 0.
func (s *Server) Addr() netip.AddrPort { return s.addr }

// Close ends the server and its connections, and waits for its goroutines.
// A second Close returns what the first did.
func (s *Server) Close() error {
	s.once.Do(func() {
		s.err = s.stop()
		s.wg.Wait()
	})
	return s.err
}

// whoami is the line an answer starts with. The peer is printed unmapped (an
// IPv4 client of a dual-stack socket is an IPv4 address) and without a zone.
func whoami(name string, peer netip.AddrPort) string {
	return name + " " + plain(peer).String() + "\n"
}

// parseWhoami is the inverse of whoami.
func parseWhoami(line string) (name string, peer netip.AddrPort, err error) {
	name, addr, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	if !ok {
		return "", netip.AddrPort{}, errors.New("answer is not NAME PEER: " + line)
	}
	peer, err = netip.ParseAddrPort(addr)
	return name, peer, err
}

func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// addrPort returns the value of a TCP or UDP address of package net.
func addrPort(a net.Addr) netip.AddrPort {
	if v, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		return v.AddrPort()
	}
	return netip.AddrPort{}
}

// closers is a set of open things that are closed together. What is added after that is
// closed at once.
type closers struct {
	mu     sync.Mutex
	closed bool
	set    map[io.Closer]struct{}
}

// add reports whether c was added. If not, it is closed.
func (cs *closers) add(c io.Closer) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.closed {
		_ = c.Close()
		return false
	}
	if cs.set == nil {
		cs.set = make(map[io.Closer]struct{})
	}
	cs.set[c] = struct{}{}
	return true
}

func (cs *closers) remove(c io.Closer) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.set, c)
	_ = c.Close()
}

func (cs *closers) closeAll() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.closed = true
	for c := range cs.set {
		_ = c.Close()
	}
}
