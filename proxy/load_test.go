// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/ipv4"
)

// load is one measurement: what a child does against Addr for Seconds.
type load struct {
	Kind    string // bulk, conns, rr, udp-rr, udp-flood
	Addr    string
	Workers int
	Size    int
	Seconds float64
}

// measured is the result.
type measured struct {
	Rate     float64 // bytes, connections, requests or datagrams each second
	P50, P99 float64 // microseconds, where single operations were timed
	CPU      float64 // seconds of processor time that the proxy spent; filled in by apply
}

// childLoad reads a load from LOAD and prints what it measured.
func childLoad() error {
	var l load
	if err := json.Unmarshal([]byte(os.Getenv("LOAD")), &l); err != nil {
		return err
	}
	worker, ok := map[string]func(*load, *run) error{
		"bulk": loadBulk, "conns": loadConns, "rr": loadRR, "udp-rr": loadUDPRR, "udp-flood": loadUDPFlood,
	}[l.Kind]
	if !ok {
		return fmt.Errorf("unknown load %q", l.Kind)
	}
	r := &run{end: time.Now().Add(time.Duration(l.Seconds * float64(time.Second)))}
	var wg sync.WaitGroup
	errs := make(chan error, l.Workers)
	begin := time.Now()
	for range l.Workers {
		wg.Go(func() { errs <- worker(&l, r) })
	}
	wg.Wait()
	took := time.Since(begin).Seconds()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	m := measured{Rate: float64(r.done.Load()) / took}
	if len(r.times) > 0 {
		slices.Sort(r.times)
		m.P50 = float64(r.times[len(r.times)/2]) / 1000
		m.P99 = float64(r.times[len(r.times)*99/100]) / 1000
	}
	return json.NewEncoder(os.Stdout).Encode(m)
}

type run struct {
	end   time.Time
	done  atomic.Int64
	mu    sync.Mutex
	times []time.Duration
}

func (r *run) over() bool { return time.Now().After(r.end) }

func (r *run) add(times []time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.times = append(r.times, times...)
	r.done.Add(int64(len(times)))
}

func loadBulk(l *load, r *run) error {
	c, err := net.Dial("tcp", l.Addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	buf := make([]byte, 128<<10)
	buf[0] = 's'
	for !r.over() {
		n, err := c.Write(buf)
		if err != nil {
			return err
		}
		r.done.Add(int64(n))
	}
	return nil
}

// loadConns connects, exchanges one byte and closes, with bare system calls:
// what is measured should be the proxy.
func loadConns(l *load, r *run) error {
	addr, err := net.ResolveTCPAddr("tcp", l.Addr)
	if err != nil {
		return err
	}
	sa := &syscall.SockaddrInet4{Port: addr.Port}
	copy(sa.Addr[:], addr.IP.To4())
	var times []time.Duration
	buf := []byte("ex")
	for !r.over() {
		begin := time.Now()
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		// Reset at the end, so that TIME_WAIT does not use up the ports.
		err = syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
		if err == nil {
			err = syscall.Connect(fd, sa)
		}
		if err == nil {
			_, err = syscall.Write(fd, buf)
		}
		if err == nil {
			var n int
			if n, err = syscall.Read(fd, buf); n == 0 && err == nil {
				err = fmt.Errorf("connection ended")
			}
		}
		_ = syscall.Close(fd)
		if err != nil {
			return err
		}
		times = append(times, time.Since(begin))
	}
	r.add(times)
	return nil
}

func loadRR(l *load, r *run) error {
	c, err := net.Dial("tcp", l.Addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte("e")); err != nil {
		return err
	}
	return requests(c, l, r)
}

func loadUDPRR(l *load, r *run) error {
	c, err := net.Dial("udp", l.Addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return requests(c, l, r)
}

// requests sends one message after the other, each when the last was echoed.
func requests(c net.Conn, l *load, r *run) error {
	var times []time.Duration
	buf := make([]byte, max(l.Size, 1))
	for !r.over() {
		begin := time.Now()
		if _, err := c.Write(buf); err != nil {
			return err
		}
		for got := 0; got < len(buf); {
			n, err := c.Read(buf[got:])
			if err != nil {
				return err
			}
			got += n
		}
		times = append(times, time.Since(begin))
	}
	r.add(times)
	return nil
}

// loadUDPFlood sends as fast as it can; the backend counts.
func loadUDPFlood(l *load, r *run) error {
	c, err := net.Dial("udp", l.Addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	pc := ipv4.NewPacketConn(c.(*net.UDPConn))
	ms := make([]ipv4.Message, 32)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, l.Size)}
		ms[i].Buffers[0][0] = floodMark
	}
	for !r.over() {
		n, err := pc.WriteBatch(ms, 0)
		if err != nil {
			continue // a full queue; counted by nobody
		}
		r.done.Add(int64(n))
	}
	return nil
}

// floodMark is the first byte of a datagram that is not to be answered: 'f',
// or 'c' to ask how many of those came.
const floodMark, countMark = 'f', 'c'

// serveUDP echoes datagrams, but counts those marked as a flood.
func serveUDP(pc *net.UDPConn) {
	p := ipv4.NewPacketConn(pc)
	ms := make([]ipv4.Message, 32)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, 64<<10)}
	}
	count := 0
	for {
		n, err := p.ReadBatch(ms, 0)
		if err != nil {
			return
		}
		for _, m := range ms[:n] {
			b := m.Buffers[0][:m.N]
			switch {
			case len(b) > 0 && b[0] == floodMark:
				count++
			case len(b) > 0 && b[0] == countMark:
				_, _ = pc.WriteTo(fmt.Appendf(nil, "%d", count), m.Addr)
				count = 0
			default:
				_, _ = pc.WriteTo(b, m.Addr)
			}
		}
	}
}

// cpu is the processor time of a process so far, in seconds. proc(5): fields
// 14 and 15 of stat, in ticks that are 10 ms on every Linux (USER_HZ).
func cpu(pid int) float64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	utime, _ := strconv.ParseFloat(fields[11], 64)
	stime, _ := strconv.ParseFloat(fields[12], 64)
	return (utime + stime) / 100
}

// apply runs l in a child and returns what it measured, with the processor
// time that the process pid spent meanwhile.
func apply(tb testing.TB, l load, pid int) measured {
	tb.Helper()
	text, err := json.Marshal(l)
	require.NoError(tb, err)
	before := cpu(pid)
	out, _ := child(tb, "load", "LOAD="+string(text))
	line, err := out.ReadBytes('\n')
	require.NoError(tb, err)
	var m measured
	require.NoError(tb, json.Unmarshal(line, &m))
	m.CPU = cpu(pid) - before
	return m
}

// backends starts the backend child and returns its TCP and UDP address.
func backends(tb testing.TB) (tcp, udp string) {
	tb.Helper()
	out, _ := child(tb, "backend")
	tcp, err := out.ReadString('\n')
	require.NoError(tb, err)
	udp, err = out.ReadString('\n')
	require.NoError(tb, err)
	return strings.TrimSpace(tcp), strings.TrimSpace(udp)
}
