// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/nat"
)

// What backends send from the ports of a range leaves by the same port while the range is given to
// another backend, cut and put together again: new flows at every moment of the changes, and those that
// began in them from the moment the change is made.
func TestWayOutOfReplacedRanges(t *testing.T) {
	top, e := wayOutHost(t)
	require.NoError(t, top.Host.Sysctl("net.netfilter.nf_conntrack_udp_timeout", "1"))
	for _, f := range families(top) {
		t.Run(f.name, func(t *testing.T) {
			b := newBackendFlood(t, top, f)
			b.change(t, e, 5000, 5999, toFirst, false)
			b.start()
			for range 2 {
				for _, c := range []struct {
					first, last int
					to          leads
				}{
					{5000, 5999, toSecond}, {5000, 5999, toFirst}, // the whole
					{5500, 5500, toSecond}, {5501, 5501, nowhere}, {5500, 5501, toFirst}, // one port
					{5200, 5799, toSecond}, {5700, 5700, toFirst}, {5000, 5999, toFirst}, // a part, in the middle
					{5000, 5599, nowhere}, {4900, 5999, toSecond}, {5000, 5999, toFirst},
				} {
					b.change(t, e, c.first, c.last, c.to, true)
					b.again(t)
				}
			}
			b.end(t)
			b.change(t, e, 5000, 5999, nowhere, false)
		})
	}
}

// backendFlood has backends send from ports of a range, each datagram a flow of its own, and judges from
// where they come.
type backendFlood struct {
	f       family
	model   *rangeModel
	sockets []backendSocket
	peer    *net.IPConn

	stop     chan struct{}
	running  sync.WaitGroup
	receives sync.WaitGroup
	flows    atomic.Int64 // begun

	mu    sync.Mutex
	last  []backendFlow // guarded by mu: the last that were begun
	came  int           // guarded by mu
	wrong []string      // guarded by mu
	acked uint64        // guarded by mu: the highest number of a datagram that came
}

type backendSocket struct {
	net.PacketConn
	port  int
	leads leads // where the port leads if it is this backend's
}

type backendFlow struct {
	from int // the socket
	to   int // the peer's port
}

func newBackendFlood(t *testing.T, top *lab.Topology, f family) *backendFlood {
	t.Helper()
	b := &backendFlood{f: f, model: newRangeModel(nowhere), stop: make(chan struct{})}
	for _, port := range []int{5000, 5199, 5200, 5500, 5501, 5700, 5800, 5999} {
		for backend, to := range map[*lab.NS]leads{top.Backend1: toFirst, top.Backend2: toSecond} {
			addr := f.backend1
			if to == toSecond {
				addr = f.backend2
			}
			b.sockets = append(b.sockets, backendSocket{listen(t, backend, at(addr, port)).PacketConn, port, to})
		}
	}
	network := "ip4:udp"
	if f.bits == 128 {
		network = "ip6:udp"
	}
	load(t, top.Far, `table inet quiet { chain output { type filter hook output priority 0; icmp type destination-unreachable drop; icmpv6 type destination-unreachable drop; }; }`)
	require.NoError(t, top.Far.Do(func() (err error) {
		b.peer, err = net.ListenIP(network, &net.IPAddr{IP: f.far.AsSlice()})
		return err
	}))
	require.NoError(t, b.peer.SetReadBuffer(4<<20))
	t.Cleanup(func() {
		_ = b.peer.Close()
		load(t, top.Far, "delete table inet quiet")
	})
	b.receives.Go(b.receive)
	return b
}

// change has ports lead elsewhere.
func (b *backendFlood) change(t *testing.T, e *engine.Engine, first, last int, to leads, flooded bool) {
	t.Helper()
	m := nat.Mapping{Proto: nat.UDP, Frontend: netip.AddrPortFrom(netip.Addr{}, uint16(first)), More: uint16(last - first)}
	switch to {
	case toFirst:
		m.Backend = netip.AddrPortFrom(b.f.backend1, uint16(first))
	case toSecond:
		m.Backend = netip.AddrPortFrom(b.f.backend2, uint16(first))
	case nowhere, toShifted:
	}
	first = max(first, floodFirst)
	b.model.begin(first, last, to)
	began := b.flows.Load()
	var err error
	if to == nowhere {
		_, err = e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{m}})
	} else {
		_, err = e.Publish(t.Context(), nat.PublishOptions{Replace: true}, m)
	}
	require.NoError(t, err)
	b.model.end(first, last, to)
	if flooded {
		require.Greater(t, b.flows.Load(), began, "nobody sent meanwhile")
	}
}

func (b *backendFlood) start() {
	b.running.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-b.stop:
				return
			default:
			}
			flow := backendFlow{n % len(b.sockets), 10000 + n%50000}
			b.mu.Lock()
			if b.last = append(b.last, flow); len(b.last) > 400 {
				b.last = slices.Delete(b.last, 0, 200)
			}
			b.mu.Unlock()
			b.send(flow, 0)
			b.flows.Add(1)
			if n%20 == 0 {
				time.Sleep(200 * time.Microsecond) // or the peer would not keep up
			}
		}
	})
}

// send sends a datagram with what is right from now on.
func (b *backendFlood) send(flow backendFlow, number uint64) {
	var p [24]byte
	binary.BigEndian.PutUint64(p[:], uint64(flow.from))
	binary.BigEndian.PutUint64(p[8:], b.model.now.Load())
	binary.BigEndian.PutUint64(p[16:], number)
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.f.far, uint16(flow.to)))
	_, _ = b.sockets[flow.from].WriteTo(p[:], to) // what is lost is not judged
}

// again has the flows that were begun last send once more: those that left by a wrong port do not stay there.
func (b *backendFlood) again(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	flows, number := slices.Clone(b.last), b.acked+1
	b.mu.Unlock()
	for _, flow := range flows {
		b.send(flow, 0)
	}
	await(t, "a datagram to arrive", func() bool {
		b.send(flows[0], number)
		time.Sleep(time.Millisecond)
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.acked >= number
	})
}

func (b *backendFlood) receive() {
	buf := make([]byte, 1500)
	for {
		n, _, err := b.peer.ReadFromIP(buf) // without the IP header
		if err != nil {
			return
		}
		if n == 8+24 {
			b.judge(int(binary.BigEndian.Uint16(buf)), buf[8:n])
		}
	}
}

func (b *backendFlood) judge(from int, p []byte) {
	s := b.sockets[binary.BigEndian.Uint64(p)]
	allowed, known := b.model.allowed(s.port, binary.BigEndian.Uint64(p[8:]))
	right := from == s.port && allowed&s.leads != 0 || masqueradePort(uint16(from)) && allowed&^s.leads != 0
	b.mu.Lock()
	defer b.mu.Unlock()
	b.came++
	b.acked = max(b.acked, binary.BigEndian.Uint64(p[16:]))
	if known && !right {
		b.wrong = append(b.wrong, fmt.Sprintf("port %d of %s came from port %d, and leads to %s", s.port, s.leads, from, allowed))
	}
}

func (b *backendFlood) end(t *testing.T) {
	t.Helper()
	close(b.stop)
	b.running.Wait()
	b.again(t)
	require.NoError(t, b.peer.Close())
	b.receives.Wait()
	t.Logf("%d flows, %d datagrams arrived, %d from a wrong port", b.flows.Load(), b.came, len(b.wrong))
	require.Greater(t, b.came, 1000)
	require.Empty(t, b.wrong)
}
