// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxConnsOfASource is how many connections of a source there may be at once. Further ones are reset.
const maxConnsOfASource = 8

// Listener accepts connections over TCP from all devices of a LAN, of both families. How many there may be at once is up to
// whoever accepts them: others wait in the kernel's queues.
type Listener struct {
	lan      *LAN
	accepted chan *Conn
	sockets  sockets[*listener]

	mu    sync.Mutex
	port  uint16
	conns map[netip.Addr]int // by their sources
}

// listener is that of a device.
type listener struct {
	*net.TCPListener
	device string
	index  int
}

func (l *listener) deviceIndex() int { return l.index }

// Conn is a connection from the LAN.
type Conn struct {
	*net.TCPConn
	of     *Listener
	from   netip.Addr
	device string
	once   sync.Once
}

// ListenTCP listens on a port of each device. Port zero: one that is free on all devices that are there.
func (l *LAN) ListenTCP(port uint16) (*Listener, error) {
	t := &Listener{
		lan: l, port: port, accepted: make(chan *Conn),
		sockets: newSockets[*listener](), conns: map[netip.Addr]int{},
	}
	if err := l.add(t); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on the LAN: %w", err), t.Close())
	}
	return t, nil
}

func (t *Listener) adjust(devices map[string]*Device) error {
	return t.sockets.adjust(devices, true, func(key socketKey, d *Device) (*listener, error) {
		l, err := t.listen(key, d.Index)
		if err != nil {
			network, _ := key.wildcard("tcp", t.Port())
			return nil, fmt.Errorf("%s port %d on %s: %w", network, t.Port(), d.Name, err)
		}
		return l, nil
	}, t.accept)
}

func (t *Listener) listen(key socketKey, index int) (*listener, error) {
	network, address := key.wildcard("tcp", t.Port())
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return control(raw, func(fd int) error { return unix.BindToDevice(fd, key.device) })
	}}
	lc.SetMultipathTCP(false)
	nl, err := lc.Listen(context.Background(), network, address)
	if err != nil {
		return nil, cause(err)
	}
	l, ok := nl.(*net.TCPListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%T is no listener of TCP", nl), nl.Close())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.port == 0 {
		t.port = l.Addr().(*net.TCPAddr).AddrPort().Port()
	}
	return &listener{l, key.device, index}, nil
}

// accept passes on the connections of a device until its listener is closed.
func (t *Listener) accept(l *listener) {
	for {
		nc, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			t.sockets.pause()
			continue
		}
		c, why := t.admit(l, nc)
		if why != dropNone {
			t.lan.drops.count(why)
			_ = nc.SetLinger(0) // it gets no answer, and leaves nothing behind
			_ = nc.Close()
			continue
		}
		select {
		case t.accepted <- c:
		case <-t.sockets.done:
			_ = c.Close()
			return
		}
	}
}

// admit makes a Conn of a connection, unless it is not for this host, or its source has too many.
func (t *Listener) admit(l *listener, nc *net.TCPConn) (*Conn, drop) {
	from, to := addrOf(nc.RemoteAddr()), addrOf(nc.LocalAddr())
	if why := t.lan.check(l.device, l.index, from, to, nil); why != dropNone {
		return nil, why
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conns[from] == maxConnsOfASource {
		return nil, dropFull
	}
	t.conns[from]++
	return &Conn{TCPConn: nc, of: t, from: from, device: l.device}, dropNone
}

func addrOf(a net.Addr) netip.Addr {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return t.AddrPort().Addr().Unmap()
}

// Accept returns a [*Conn].
func (t *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-t.accepted:
		return c, nil
	case <-t.sockets.done:
		return nil, net.ErrClosed
	}
}

// Addr returns the port, at no address.
func (t *Listener) Addr() net.Addr { return &net.TCPAddr{Port: int(t.Port())} }

// Port returns the port; zero: none is chosen yet, since no device is there.
func (t *Listener) Port() uint16 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.port
}

// Close closes the listeners. Connections stay.
func (t *Listener) Close() error {
	t.lan.remove(t)
	return t.sockets.close()
}

// Device is that on which the connection came.
func (c *Conn) Device() string { return c.device }

// Close closes the connection.
func (c *Conn) Close() error {
	c.once.Do(func() {
		t := c.of
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.conns[c.from]--; t.conns[c.from] == 0 {
			delete(t.conns, c.from)
		}
	})
	return c.TCPConn.Close()
}
