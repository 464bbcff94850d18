// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// missed counts new flows that met the host instead of the backend: sockets of the host at the
// frontends count them, one by one.
type missed struct {
	udpSent, udpMissed, tcpMade, tcpMissed atomic.Int64
	pause                                  time.Duration // between two flows of a client
	stop                                   chan struct{}
	running                                sync.WaitGroup
	closers                                []io.Closer
}

// startNewFlows begins one new flow after the other: UDP from one client, TCP from another.
func startNewFlows(t *testing.T, top *lab.Topology, pause time.Duration) *missed {
	t.Helper()
	m := &missed{stop: make(chan struct{}), pause: pause}
	own, err := top.Host.ListenPacket("udp4", "192.0.2.1:5353")
	require.NoError(t, err)
	l, err := top.Host.Listen("tcp4", "192.0.2.1:8080")
	require.NoError(t, err)
	m.closers = []io.Closer{own, l}
	go func() {
		for buf := make([]byte, 16); ; m.udpMissed.Add(1) {
			if _, _, err := own.ReadFrom(buf); err != nil {
				return
			}
		}
	}()
	go func() {
		for ; ; m.tcpMissed.Add(1) {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	m.each(t, top.Client, func() {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return
		}
		if syscall.Sendto(fd, []byte("x"), 0, &syscall.SockaddrInet4{Port: 5353, Addr: [4]byte{192, 0, 2, 1}}) == nil {
			m.udpSent.Add(1)
		}
		_ = syscall.Close(fd)
	})
	m.each(t, top.Client, func() {
		d := net.Dialer{Timeout: answerTimeout, Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { // ends with RST: no port stays in TIME_WAIT
				_ = syscall.SetsockoptLinger(int(fd), syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
			})
		}}
		if c, err := d.DialContext(context.Background(), "tcp4", "192.0.2.1:8080"); err == nil {
			m.tcpMade.Add(1)
			_ = c.Close()
		}
	})
	return m
}

// each calls f in a namespace again and again until the end.
func (m *missed) each(t *testing.T, ns *lab.NS, f func()) {
	t.Helper()
	m.running.Go(func() {
		_ = ns.Do(func() error {
			for {
				select {
				case <-m.stop:
					return nil
				default:
					f()
				}
				if m.pause != 0 {
					time.Sleep(m.pause)
				}
			}
		})
	})
}

func (m *missed) end() {
	close(m.stop)
	m.running.Wait()
	for _, c := range m.closers {
		_ = c.Close()
	}
}

// count returns how many UDP and TCP flows f has made miss the table.
func (m *missed) count(f func()) (udp, tcp int64) {
	const settled = 3 * time.Millisecond // until the host's sockets have counted
	time.Sleep(settled)
	udp, tcp = m.udpMissed.Load(), m.tcpMissed.Load()
	f()
	time.Sleep(settled)
	return m.udpMissed.Load() - udp, m.tcpMissed.Load() - tcp
}

// envEnds is how many ends TestCleanEnds has for each number of mappings.
const envEnds = "NFTNAT_ENDS"

// An engine that ends leaves a table that nft(8) can load, and misses no more new flows by it
// than nft(8) itself when it replaces the table: a packet can meet the new chain before the
// transaction and the old one after it.
func TestCleanEnds(t *testing.T) {
	ends := labtest.Number(t, envEnds, 3)
	sizes := []int{1, 1000}
	if ends > 100 {
		sizes = append(sizes, 10000)
	}
	for _, size := range sizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) { cleanEnds(t, size, ends) })
	}
}

func cleanEnds(t *testing.T, size, ends int) {
	t.Helper()
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	labtest.EchoUDP(t, top.Backend1, "web", ":80")
	require.NoError(t, top.Host.Sysctl("net.netfilter.nf_conntrack_udp_timeout", "1"))
	opts := engine.Options{NetNS: top.Host.Path(), NoProxies: true, Log: slog.New(slog.DiscardHandler)}
	begin := func() *engine.Engine {
		e, err := engine.Open(t.Context(), opts)
		require.NoError(t, err)
		return e
	}
	e := begin()
	ms := []nat.Mapping{mapping(t, "8080->172.30.0.2:80"), mapping(t, "5353->172.30.0.2:80/udp")}
	for i := range size - 1 {
		m := mapping(t, "20000->172.30.0.2:80")
		m.Frontend = netip.AddrPortFrom(netip.Addr{}, uint16(20000+2*i)) // no ranges
		ms = append(ms, m)
	}
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, ms...)
	require.NoError(t, err)
	st, err := e.Status(t.Context())
	require.NoError(t, err)
	if !st.Owned {
		t.Skip("needs a kernel with persistent owned tables (6.9)")
	}
	require.NoError(t, e.Close())
	text := nft(t, top.Host, "list", "table", "inet", "nftnat")
	require.NotContains(t, text, "flags owner")
	path := filepath.Join(t.TempDir(), "table.nft")
	require.NoError(t, os.WriteFile(path, []byte("delete table inet nftnat\n"+text), 0o600))

	m := startNewFlows(t, top, 0)
	var udp, tcp [3]int64
	var took [3]time.Duration
	what := [3]string{"end of an engine", "begin of an engine", "nft -f"}
	phase := func(i int, f func()) {
		at := time.Now()
		u, c := m.count(func() { f(); took[i] += time.Since(at) })
		udp[i], tcp[i] = udp[i]+u, tcp[i]+c
	}
	for range ends {
		phase(1, func() { e = begin() })
		phase(0, func() { require.NoError(t, e.Close()) })
		phase(2, func() { nft(t, top.Host, "-f", path) })
	}
	m.end()
	for i := range what {
		t.Logf("%d mappings, %d times: %s: %d UDP and %d TCP flows missed, %v each", size, ends, what[i], udp[i], tcp[i], took[i]/time.Duration(ends))
		require.LessOrEqual(t, udp[i]+tcp[i], int64(4*ends), "one for each client and processor, at most")
	}
	t.Logf("%d UDP and %d TCP flows", m.udpSent.Load(), m.tcpMade.Load())
	require.NotZero(t, m.udpSent.Load())
	require.NotZero(t, m.tcpMade.Load())
	require.Equal(t, strings.Count(text, " : "), strings.Count(nft(t, top.Host, "list", "table", "inet", "nftnat"), " : "))
}
