// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"sync/atomic"

	"golang.org/x/net/ipv4"
)

// The first byte of a connection or datagram to the backend says what to do.
const (
	askEcho    = 'e' // send everything back
	askSwallow = 's' // send nothing back
	askCount   = 'c' // send the number of datagrams swallowed since the last time
)

// The backend serves TCP and UDP at these ports: backendPort, and one in the middle of a wide
// range, which keeps its number.
const (
	backendPort = 80
	rangePort   = 35000
)

// childBackend serves TCP and UDP until standard input ends.
func childBackend() error {
	var count atomic.Int64
	for _, port := range []int{backendPort, rangePort} {
		if err := serve(port, &count); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	untilStdinEnds()
	return nil
}

// serve serves both protocols at a port.
func serve(port int, count *atomic.Int64) error {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{Port: port})
	if err != nil {
		return err
	}
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{Port: port})
	if err != nil {
		return err
	}
	_ = pc.SetReadBuffer(8 << 20) // root may set more than the limit; others do without
	go serveDatagrams(pc, count)
	go func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				serveConn(c, count)
				_ = c.Close()
			}()
		}
	}()
	return nil
}

func serveConn(c *net.TCPConn, count *atomic.Int64) {
	small := make([]byte, 64) // so that thousands of idle connections cost little
	n, err := c.Read(small)
	if err != nil {
		return
	}
	switch small[0] {
	case askCount:
		_, _ = fmt.Fprintln(c, count.Swap(0))
	case askSwallow:
		buf := make([]byte, 256<<10)
		for err == nil {
			_, err = c.Read(buf)
		}
	default:
		for err == nil {
			if _, err = c.Write(small[:n]); err == nil {
				n, err = c.Read(small)
			}
		}
	}
}

// serveDatagrams echoes datagrams, and counts those that it is to swallow.
func serveDatagrams(pc *net.UDPConn, count *atomic.Int64) {
	p := ipv4.NewPacketConn(pc)
	ms := make([]ipv4.Message, 64)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, 2048)}
	}
	for {
		n, err := p.ReadBatch(ms, 0)
		if err != nil {
			return
		}
		swallowed := 0
		for i := range ms[:n] {
			m := &ms[i]
			if b := m.Buffers[0][:m.N]; len(b) > 0 && b[0] == askSwallow {
				swallowed++
			} else {
				_, _ = pc.WriteTo(b, m.Addr)
			}
		}
		count.Add(int64(swallowed))
	}
}
