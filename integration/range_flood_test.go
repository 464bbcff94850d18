// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// Ports are taken from a range of 60,000, given to others and returned, alone and in runs, while
// new flows come to all of them. No packet goes to a wrong backend or is not translated: each is
// judged by what was right between its way out and its arrival. In the end the engine's mappings,
// those that another engine adopts, and the kernel's elements say what a naive model says.
// NFTNAT_RANGE_CHANGES is how many changes are made, NFTNAT_RANGE_BATCH how many single ports a call
// changes at most, NFTNAT_FLOOD_RATE how many datagrams are sent in a second at most, and NFTNAT_SEED
// what the choices begin with.
func TestRangeFlood(t *testing.T) {
	for name, one := range map[string]bool{"any address": false, "one address": true} {
		t.Run(name, func(t *testing.T) {
			top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2, Forwarding: true})
			var host netip.Addr
			if one {
				host = top.Host.V4
			}
			changes := labtest.RoundsOf(t, "NFTNAT_RANGE_CHANGES", "changes of a range under a flood", 20, 100)
			seed := uint64(labtest.Number(t, "NFTNAT_SEED", int(time.Now().UnixNano()>>10)))
			t.Logf("NFTNAT_SEED=%d", seed)

			model := newRangeModel(toFirst)
			e := open(t, top.Host, engine.Options{})
			_, err := e.Publish(t.Context(), nat.PublishOptions{}, floodMapping(host, floodFirst, floodLast, toFirst))
			require.NoError(t, err)
			f := newRangeFlood(t, top, model)
			c := &rangeChanges{host: host, random: rand.New(rand.NewPCG(seed, 0)), model: model, flood: f}
			// At least 20 calls, or the flood has hardly begun when they are done.
			c.batch = labtest.Number(t, "NFTNAT_RANGE_BATCH", max(1, min(16, changes/20)))

			agrees := func(e *engine.Engine) {
				ms, err := e.Mappings(t.Context())
				require.NoError(t, err)
				require.NoError(t, model.compare(mappedPorts(ms)))
				dump := dumpRanges(t, top.Host, one)
				require.NoError(t, model.compare(dump.leads))
			}
			for compared := 0; c.made < changes; {
				require.NoError(t, c.change(t.Context(), e, changes-c.made))
				if c.made-compared >= max(1000, changes/20) {
					compared = c.made
					agrees(e)
				}
			}
			f.end(t)
			t.Logf("%d changes in %d calls, %d of them refused", c.made, c.calls, c.refused)

			agrees(e)
			require.NoError(t, e.Close())
			agrees(open(t, top.Host, engine.Options{}))
		})
	}
}

// A port whose backend is replaced leads to the old one, then to the new one. Kernels before 6.17 may
// show a packet neither at the very moment of the change, seldom: docs/reliability.md says how often.
// NFTNAT_REPLACEMENTS is how often it is replaced.
func TestReplaceFlood(t *testing.T) {
	for name, one := range map[string]bool{"any address": false, "one address": true} {
		t.Run(name, func(t *testing.T) {
			top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2, Forwarding: true})
			var host netip.Addr
			if one {
				host = top.Host.V4
			}
			replacements := labtest.RoundsOf(t, "NFTNAT_REPLACEMENTS", "replacements under a flood", 10, 40)
			model := newRangeModel(nowhere)
			e := open(t, top.Host, engine.Options{})
			const port = floodFirst + 1
			_, err := e.Publish(t.Context(), nat.PublishOptions{}, floodMapping(host, port, port, toSecond))
			require.NoError(t, err)
			model.end(port, port, toSecond)
			f := newRangeFlood(t, top, model)
			f.aim(portRange{port, port})
			for i := range replacements {
				to := []leads{toFirst, toSecond}[i%2]
				model.begin(port, port, to)
				_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, floodMapping(host, port, port, to))
				require.NoError(t, err)
				model.end(port, port, to)
			}
			f.halt(t)
			require.Zero(t, f.wrong.Load()-f.missed.Load(), "packets at a wrong backend")
			require.LessOrEqual(t, f.missed.Load()*1000, f.came.Load(), "packets that found no backend")
		})
	}
}

// mappedPorts returns a function that finds a port in a list of mappings.
func mappedPorts(ms []nat.Mapping) func(port int) leads {
	to := map[int]leads{}
	for _, m := range ms {
		for i := range int(m.More) + 1 {
			port := int(m.Frontend.Port()) + i
			to[port] = leadsTo(netip.AddrPortFrom(m.Backend.Addr(), m.Backend.Port()+uint16(i)), port)
		}
	}
	return func(port int) leads {
		if l, ok := to[port]; ok {
			return l
		}
		return nowhere
	}
}

// rangeChanges makes random changes.
type rangeChanges struct {
	host   netip.Addr
	random *rand.Rand
	model  *rangeModel
	flood  *rangeFlood
	batch  int // how many single ports a call changes at most

	made, calls, refused int
}

// portRange is the ports from first to last.
type portRange struct{ first, last int }

// change makes one call, of at most so many changes. It changes what some ports lead to: most often
// one or some single ones, seldom hundreds in a row, now and then all.
func (c *rangeChanges) change(ctx context.Context, e *engine.Engine, most int) error {
	changed, to := c.choose(most)
	c.flood.aim(changed...)
	ms := make([]nat.Mapping, len(changed))
	for i, r := range changed {
		c.model.begin(r.first, r.last, to[i])
		ms[i] = floodMapping(c.host, r.first, r.last, to[i])
	}
	var err error
	if to[0] == nowhere {
		_, err = e.Remove(ctx, nat.Removal{Mappings: ms})
	} else {
		_, err = e.Publish(ctx, nat.PublishOptions{Replace: true}, ms...)
	}
	c.calls++
	c.made += len(changed)
	// A range is not cut into more than there may be.
	refused := (*nat.RangesError)(nil)
	if errors.As(err, &refused) {
		c.refused += len(changed)
		err = nil
	} else {
		refused = nil
	}
	for i, r := range changed {
		if refused != nil {
			c.model.undo(r.first, r.last)
		} else {
			c.model.end(r.first, r.last, to[i])
		}
	}
	return err
}

// choose chooses the ports of a call, and where they are to lead: all nowhere, or none.
func (c *rangeChanges) choose(most int) ([]portRange, []leads) {
	const all = floodLast - floodFirst + 1
	width, count := 1, 1
	switch n := c.random.IntN(100); {
	case n < 2:
		width = all
	case n < 8:
		width = 257 + c.random.IntN(3000)
	case n < 20:
		width = 2 + c.random.IntN(250)
	case n < 60:
		count = min(1+c.random.IntN(c.batch), most)
	}
	remove := width < all && c.random.IntN(7) < 2
	var ports []portRange
	var to []leads
	for range count {
		l, w := []leads{toFirst, toSecond, toShifted}[c.random.IntN(3)], width
		switch {
		case remove:
			l = nowhere
		case width == all:
			l = []leads{toFirst, toSecond}[c.random.IntN(2)]
		case l == toShifted:
			w = min(w, 50)
		}
		first := floodFirst + c.random.IntN(all+1-w)
		if hot := c.flood.hotPorts(); w == 1 && c.random.IntN(2) == 0 {
			if r := hot[c.random.IntN(len(hot))]; r.first == r.last {
				first = r.first // back and forth
			}
		}
		r := portRange{first, first + w - 1}
		if remove && !c.model.published(r) { // what is not published cannot be removed
			if len(ports) != 0 {
				continue
			}
			remove, l = false, toFirst
		}
		if !slices.Contains(ports, r) {
			ports, to = append(ports, r), append(to, l)
		}
	}
	return ports, to
}

// rangeFlood sends datagrams of new flows, and judges where they arrive.
type rangeFlood struct {
	model *rangeModel
	hot   atomic.Pointer[[]portRange] // the ports that half of the datagrams go to
	pause time.Duration               // between two datagrams

	stop       chan struct{}
	sender     sync.WaitGroup
	receivers  sync.WaitGroup
	conns      []*net.IPConn
	sent, came atomic.Int64
	unknown    atomic.Int64
	wrong      atomic.Int64
	missed     atomic.Int64 // of them: came to the host itself

	mu    sync.Mutex
	first string // guarded by mu: the first that arrived where it must not
}

// The datagrams under way at a time, and how long is waited for those that are lost.
const (
	floodWindow = 256
	floodLost   = 100 * time.Millisecond
)

// newRangeFlood begins a flood from the client to the host.
func newRangeFlood(t *testing.T, top *lab.Topology, model *rangeModel) *rangeFlood {
	t.Helper()
	f := &rangeFlood{model: model, stop: make(chan struct{})}
	if rate := labtest.Number(t, "NFTNAT_FLOOD_RATE", 0); rate != 0 {
		f.pause = time.Second / time.Duration(rate)
	}
	f.aim(portRange{floodFirst, floodFirst})
	// A flow is one datagram; what it takes of connection tracking is given back at once. Nobody
	// hears of a port that is closed.
	require.NoError(t, top.Host.Sysctl("net.netfilter.nf_conntrack_udp_timeout", "1"))
	for ns, arrived := range map[*lab.NS]leads{top.Host: nowhere, top.Backend1: toFirst, top.Backend2: toSecond} {
		labtest.ExecInput(t, ns, `table inet quiet {
			chain output { type filter hook output priority 0; icmp type destination-unreachable drop; }
		}`, "nft", "-f", "-")
		require.NoError(t, ns.Do(func() error {
			conn, err := net.ListenIP("ip4:udp", nil)
			if err == nil {
				_ = conn.SetReadBuffer(4 << 20)
				f.conns = append(f.conns, conn)
				f.receivers.Go(func() { f.receive(conn, arrived) })
			}
			return err
		}))
	}
	var fd int
	require.NoError(t, top.Client.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	}))
	f.sender.Go(func() {
		defer func() { _ = unix.Close(fd) }()
		f.send(fd, top.Host.V4)
	})
	return f
}

// aim has half of the datagrams go to some ports, and those next to them.
func (f *rangeFlood) aim(ports ...portRange) { f.hot.Store(&ports) }

func (f *rangeFlood) hotPorts() []portRange { return *f.hot.Load() }

// send sends as many datagrams as arrive. Each is from another address and port, and says which
// port it goes to and when it left.
func (f *rangeFlood) send(fd int, host netip.Addr) {
	to := &unix.SockaddrInet4{Addr: host.As4()}
	random := rand.New(rand.NewPCG(1, 2))
	given := int64(0) // up for lost
	next := time.Now()
	for n := 0; ; n++ {
		select {
		case <-f.stop:
			return
		default:
		}
		for waiting := time.Now(); f.sent.Load()-f.came.Load()-given >= floodWindow; time.Sleep(50 * time.Microsecond) {
			if time.Since(waiting) > floodLost {
				given = f.sent.Load() - f.came.Load()
			}
		}
		if f.pause != 0 {
			next = next.Add(f.pause)
			time.Sleep(time.Until(next))
		}
		port := floodFirst + random.IntN(floodLast-floodFirst+1)
		if n%2 == 0 {
			hot := f.hotPorts()
			r := hot[random.IntN(len(hot))]
			port = min(max(r.first-1+random.IntN(r.last-r.first+3), floodFirst), floodLast)
		}
		if unix.Sendto(fd, floodPacket(n, port, host, f.model.now.Load()), 0, to) == nil {
			f.sent.Add(1)
		}
	}
}

// floodPacket is the IPv4 packet of a flow.
func floodPacket(n, port int, host netip.Addr, now uint64) []byte {
	const ports = 60000
	p := make([]byte, 20+8+12)
	p[0], p[8], p[9] = 4<<4|5, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	source, destination := [4]byte{192, 0, 2, byte(16 + n/ports%200)}, host.As4()
	copy(p[12:], source[:])
	copy(p[16:], destination[:])
	binary.BigEndian.PutUint16(p[20:], uint16(1024+n%ports))
	binary.BigEndian.PutUint16(p[22:], uint16(port))
	binary.BigEndian.PutUint16(p[24:], uint16(len(p)-20)) // without a checksum, as IPv4 allows
	binary.BigEndian.PutUint32(p[28:], uint32(port))
	binary.BigEndian.PutUint64(p[32:], now)
	return p
}

// receive judges what arrives at a machine, until its socket is closed.
func (f *rangeFlood) receive(conn *net.IPConn, arrived leads) {
	buf := make([]byte, 1500)
	for {
		n, _, err := conn.ReadFromIP(buf) // without the IP header
		if err != nil {
			return
		}
		if p := buf[:n]; n == 20 {
			f.judge(int(binary.BigEndian.Uint16(p[2:])), int(binary.BigEndian.Uint32(p[8:])), binary.BigEndian.Uint64(p[12:]), arrived)
		}
	}
}

func (f *rangeFlood) judge(at, port int, since uint64, arrived leads) {
	if port < floodFirst || port > floodLast {
		return // another's
	}
	f.came.Add(1)
	got := arrived
	switch {
	case at == port:
	case arrived == toSecond && at == port-floodShift:
		got = toShifted
	default:
		got = 0
	}
	allowed, known := f.model.allowed(port, since)
	switch {
	case got&allowed != 0:
	case !known:
		f.unknown.Add(1)
	default:
		f.wrong.Add(1)
		if arrived == nowhere {
			f.missed.Add(1)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.first == "" {
			f.first = "a packet to port " + strconv.Itoa(port) + " came to port " + strconv.Itoa(at) + " of " + got.String() + " instead of " + allowed.String()
		}
	}
}

// end ends the flood and checks it.
func (f *rangeFlood) end(t *testing.T) {
	t.Helper()
	f.halt(t)
	require.Zero(t, f.wrong.Load(), f.first)
}

// halt ends the flood, whatever it met.
func (f *rangeFlood) halt(t *testing.T) {
	t.Helper()
	close(f.stop)
	f.sender.Wait()
	await(t, "what is on its way", func() bool {
		before := f.came.Load()
		time.Sleep(20 * time.Millisecond)
		return f.came.Load() == before
	})
	for _, conn := range f.conns {
		require.NoError(t, conn.Close())
	}
	f.receivers.Wait()
	t.Logf("%d packets of %d arrived, %d at the wrong place, of them %d at none", f.came.Load(), f.sent.Load(), f.wrong.Load(), f.missed.Load())
	require.Less(t, f.unknown.Load()*1000, f.came.Load(), "packets that were too late to be judged")
	require.Greater(t, f.came.Load()*100, f.sent.Load()*95, "packets were lost")
	require.Greater(t, f.came.Load(), int64(1000))
}
