// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// load is what a child sends to an address for some time. Each worker is a thread with
// blocking system calls, so that the clients cost little of what is measured.
type load struct {
	Kind    string // bulk, conns, alone, handshakes, rr, udp-rr, udp-flood, hold, udp-hold
	Addr    string
	Ports   int // connect to as many ports in turn, that of Addr first; 0: to that one
	Workers int // of hold and udp-hold: how many connections or flows
	Size    int
	Seconds float64
}

// measured is the result of a load.
type measured struct {
	Rate     float64 // bytes, connections, requests or datagrams a second
	P50, P99 float64 // seconds, where single operations were timed
	CPU      float64 // processor time of the load itself, in seconds
}

// run is shared by the workers of a load.
type run struct {
	load
	to   netip.AddrPort
	turn atomic.Int64 // connections so far, if they go to several ports
	end  time.Time
	done atomic.Int64
	mu   sync.Mutex
	each []time.Duration // guarded by mu
}

// childLoad reads a load from LOAD and prints what it measured.
func childLoad() error {
	r := &run{}
	if err := json.Unmarshal([]byte(os.Getenv("LOAD")), &r.load); err != nil {
		return err
	}
	var err error
	if r.to, err = netip.ParseAddrPort(r.Addr); err != nil {
		return err
	}
	work, ok := map[string]func(*run) error{
		"bulk": bulk, "conns": connections, "alone": alone, "handshakes": handshakes, "rr": requests, "udp-rr": questions, "udp-flood": flood,
	}[r.Kind]
	switch {
	case r.Kind == "hold":
		return hold(r, unix.SOCK_STREAM)
	case r.Kind == "udp-hold":
		return hold(r, unix.SOCK_DGRAM)
	case !ok:
		return fmt.Errorf("unknown load %q", r.Kind)
	}
	begin, cpu := time.Now(), processorTime(0)
	r.end = begin.Add(time.Duration(r.Seconds * float64(time.Second)))
	errs := make(chan error, r.Workers)
	for range r.Workers {
		go func() { errs <- work(r) }()
	}
	for range r.Workers {
		if err := <-errs; err != nil {
			return err
		}
	}
	m := measured{Rate: float64(r.done.Load()) / time.Since(begin).Seconds(), CPU: processorTime(0) - cpu}
	if n := len(r.each); n > 0 {
		slices.Sort(r.each)
		m.P50, m.P99 = r.each[n/2].Seconds(), r.each[n*99/100].Seconds()
	}
	return json.NewEncoder(os.Stdout).Encode(m)
}

func (r *run) over() bool { return time.Now().After(r.end) }

// timed adds the times of a worker.
func (r *run) timed(each []time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.each = append(r.each, each...)
	r.done.Add(int64(len(each)))
}

const (
	callTimeout = 5 * time.Second        // the limit of every call of a load
	lost        = 200 * time.Millisecond // after which a datagram counts as lost
)

// alone connects to a listener of its own thread, at a free port of the address: nobody is waited for,
// so that the median is what the kernel takes for a connection, however busy the machine is.
func alone(r *run) error {
	runtime.LockOSThread()
	family, at := r.destination()
	switch at := at.(type) {
	case *unix.SockaddrInet4:
		at.Port = 0
	case *unix.SockaddrInet6:
		at.Port = 0
	}
	listener, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(listener) }()
	if err := errors.Join(unix.Bind(listener, at), unix.Listen(listener, 1)); err != nil {
		return err
	}
	bound, err := unix.Getsockname(listener)
	if err != nil {
		return err
	}
	switch bound := bound.(type) {
	case *unix.SockaddrInet4:
		r.to = netip.AddrPortFrom(r.to.Addr(), uint16(bound.Port))
	case *unix.SockaddrInet6:
		r.to = netip.AddrPortFrom(r.to.Addr(), uint16(bound.Port))
	}
	var each []time.Duration
	for !r.over() {
		began := time.Now()
		fd, err := r.dial(unix.SOCK_STREAM)
		if err != nil {
			return err
		}
		accepted, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err := errors.Join(err, unix.Close(fd), unix.Close(accepted)); err != nil {
			return err
		}
		each = append(each, time.Since(began))
	}
	r.timed(each)
	return nil
}

// destination returns where the next connection goes. An IPv4 address in IPv6 (::ffff:0:0/96) is
// for an IPv6 socket.
func (r *run) destination() (family int, to unix.Sockaddr) {
	port := int(r.to.Port())
	if r.Ports > 1 {
		port += int(r.turn.Add(1)-1) % r.Ports
	}
	if a := r.to.Addr(); !a.Is4() {
		return unix.AF_INET6, &unix.SockaddrInet6{Port: port, Addr: a.As16()}
	}
	return unix.AF_INET, &unix.SockaddrInet4{Port: port, Addr: r.to.Addr().As4()}
}

// dial connects a blocking socket.
func (r *run) dial(kind int) (int, error) {
	family, to := r.destination()
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	wait := unix.NsecToTimeval(callTimeout.Nanoseconds())
	if kind == unix.SOCK_DGRAM {
		wait = unix.NsecToTimeval(lost.Nanoseconds())
	}
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait),
		unix.Connect(fd, to))
	if err == nil && kind == unix.SOCK_STREAM {
		// Reset at the end, so that TIME_WAIT does not use up the ports.
		err = errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
			unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("connect: %w", err)
	}
	return fd, nil
}

// exchange sends a message and reads as many bytes.
func exchange(fd int, buf []byte) error {
	if _, err := unix.Write(fd, buf); err != nil {
		return err
	}
	for got := 0; got < len(buf); {
		n, err := unix.Read(fd, buf[got:])
		if err == nil && n == 0 {
			err = errors.New("connection ended")
		}
		if err != nil {
			return err
		}
		got += n
	}
	return nil
}

// bulk sends as many bytes as possible over one connection.
func bulk(r *run) error {
	fd, err := r.dial(unix.SOCK_STREAM)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	buf := make([]byte, 128<<10)
	buf[0] = askSwallow
	for !r.over() {
		n, err := unix.Write(fd, buf)
		if err != nil {
			return err
		}
		r.done.Add(int64(n))
	}
	return nil
}

// connections repeatedly connects, exchanges one byte and resets.
func connections(r *run) error {
	var each []time.Duration
	buf := []byte{askEcho}
	for !r.over() {
		begin := time.Now()
		fd, err := r.dial(unix.SOCK_STREAM)
		if err != nil {
			return err
		}
		err = exchange(fd, buf)
		_ = unix.Close(fd)
		if err != nil {
			return err
		}
		each = append(each, time.Since(begin))
	}
	r.timed(each)
	return nil
}

// handshakes repeatedly connects and resets, and times connecting: opening a socket, the
// first packet of a flow, and the answer of the backend's kernel.
func handshakes(r *run) error {
	var each []time.Duration
	for !r.over() {
		begin := time.Now()
		fd, err := r.dial(unix.SOCK_STREAM)
		if err != nil {
			return err
		}
		each = append(each, time.Since(begin))
		_ = unix.Close(fd)
	}
	r.timed(each)
	return nil
}

// requests sends messages over one connection, each after the answer to the one before.
func requests(r *run) error {
	fd, err := r.dial(unix.SOCK_STREAM)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return r.exchanges(fd)
}

// exchanges is what requests and questions do. A lost datagram costs its time-out.
func (r *run) exchanges(fd int) error {
	var each []time.Duration
	buf := make([]byte, max(r.Size, 1))
	buf[0] = askEcho
	for !r.over() {
		begin := time.Now()
		switch err := exchange(fd, buf); {
		case err == nil:
			each = append(each, time.Since(begin))
		case r.Kind != "udp-rr" || !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ECONNREFUSED):
			return err
		}
	}
	r.timed(each)
	return nil
}

// questions is requests with datagrams.
func questions(r *run) error {
	fd, err := r.dial(unix.SOCK_DGRAM)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return r.exchanges(fd)
}

// flood sends datagrams as fast as it can; the backend counts them.
func flood(r *run) error {
	fd, err := r.dial(unix.SOCK_DGRAM)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	type mmsghdr struct {
		hdr unix.Msghdr
		n   uint32
	}
	ms := make([]mmsghdr, 32)
	for i := range ms {
		buf := make([]byte, r.Size)
		buf[0] = askSwallow
		iov := &unix.Iovec{Base: &buf[0]}
		iov.SetLen(len(buf))
		ms[i].hdr.Iov = iov
		ms[i].hdr.SetIovlen(1)
	}
	for !r.over() {
		n, _, e := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&ms[0])), uintptr(len(ms)), 0, 0, 0)
		if e == 0 {
			r.done.Add(int64(n)) // errors belong to earlier datagrams or a full queue
		}
	}
	return nil
}

// hold opens connections or flows, exchanges one byte over each, prints a line, and keeps
// them until standard input ends.
func hold(r *run, kind int) error {
	if kind == unix.SOCK_DGRAM { // a lost one is sent again
		for i := range r.Workers {
			if err := r.holdFlow(); err != nil {
				return fmt.Errorf("flow %d: %w", i, err)
			}
		}
	} else {
		for i := range r.Workers {
			fd, err := r.dial(kind)
			if err == nil {
				err = exchange(fd, []byte{askEcho})
			}
			if err != nil {
				return fmt.Errorf("connection %d: %w", i, err)
			}
		}
	}
	fmt.Println("{}")
	untilStdinEnds()
	return nil
}

// holdTries is how often the datagram of a flow is sent.
const holdTries = 50

func (r *run) holdFlow() error {
	fd, err := r.dial(unix.SOCK_DGRAM)
	if err != nil {
		return err
	}
	for range holdTries {
		if err = exchange(fd, []byte{askEcho}); err == nil {
			return nil
		}
		if errors.Is(err, unix.ECONNREFUSED) { // nobody listens at the moment
			time.Sleep(lost)
		}
	}
	return err
}
