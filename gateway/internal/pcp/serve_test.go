// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package pcp

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/gateway/internal/lan"
	"github.com/nftnat/nftnat/gateway/internal/lease"
)

// sent is a datagram that a server has sent.
type sent struct {
	at     time.Duration // since the beginning of the test
	device string
	to     netip.AddrPort
	data   []byte
}

// fakeSocket is a socket without a device.
type fakeSocket struct {
	began    time.Time
	requests chan lan.Packet
	closed   chan struct{}
	once     sync.Once

	mu  sync.Mutex
	all []sent
}

func newFakeSocket() *fakeSocket {
	return &fakeSocket{began: time.Now(), requests: make(chan lan.Packet), closed: make(chan struct{})}
}

func (s *fakeSocket) Read(buf []byte) (lan.Packet, error) {
	select {
	case p := <-s.requests:
		p.Data = buf[:copy(buf, p.Data)]
		return p, nil
	case <-s.closed:
		return lan.Packet{}, net.ErrClosed
	}
}

func (s *fakeSocket) Reply(p lan.Packet, data []byte) error { return s.Send(p.Device, p.From, data) }

func (s *fakeSocket) Send(device string, to netip.AddrPort, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, sent{time.Since(s.began), device, to, data})
	return nil
}

func (s *fakeSocket) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// takeSent returns what was sent since it was called last.
func (s *fakeSocket) takeSent() []sent {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.all
	s.all = nil
	return all
}

var (
	gatewayAddr = netip.MustParseAddr("192.168.1.1")
	device      = lan.Device{Name: "lan0", Index: 2, Up: true, Addrs: []netip.Prefix{
		netip.PrefixFrom(gatewayAddr, 24), netip.MustParsePrefix("fe80::1/64"),
	}}
)

// packet is a request on its way to the server.
func packet(from netip.AddrPort, data []byte) lan.Packet {
	return lan.Packet{Data: data, From: from, To: gatewayAddr, Local: gatewayAddr, Device: device.Name}
}

// run runs a server of leases in a bubble, with a clock of its own, for the time of a test.
func run(t *testing.T, f *fakeLeases, test func(t *testing.T, sock *fakeSocket)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f.changed, f.ready = make(chan struct{}), make(chan struct{})
		close(f.ready)
		runUnready(t, f, test)
	})
}

func runUnready(t *testing.T, f *fakeLeases, test func(t *testing.T, sock *fakeSocket)) {
	t.Helper()
	sock := newFakeSocket()
	s := f.server()
	s.socket, s.devices = sock, func() []lan.Device { return []lan.Device{device} }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	synctest.Wait()
	test(t, sock)
	cancel()
	assert.NoError(t, <-ended)
}

// TestAnnounce compares what is announced, and when, with RFC 6886 section 3.2.1 and RFC 6887 section 14.1.3: ten
// times, 250 ms apart first and then twice as long each time.
func TestAnnounce(t *testing.T) {
	f := newFake()
	run(t, f, func(t *testing.T, sock *fakeSocket) {
		t.Helper()
		check := func(began time.Duration, wan string, result byte) {
			t.Helper()
			time.Sleep(5 * time.Minute)
			all := sock.takeSent()
			require.Len(t, all, 10*3)
			at, interval := began, 250*time.Millisecond
			for i := 0; i < len(all); i += 3 {
				for j, to := range []string{"224.0.0.1:5350", "224.0.0.1:5350", "[ff02::1]:5350"} {
					assert.Equal(t, netip.MustParseAddrPort(to), all[i+j].to)
					assert.Equal(t, "lan0", all[i+j].device)
					assert.Equal(t, at, all[i+j].at)
				}
				assert.Equal(t, "008000"+hex.EncodeToString([]byte{result})+"00000064"+wan, hex.EncodeToString(all[i].data))
				assert.Equal(t, "028000000000000000000064000000000000000000000000", hex.EncodeToString(all[i+1].data))
				assert.Equal(t, all[i+1].data, all[i+2].data)
				at += interval
				interval *= 2
			}
		}
		check(0, "c6336401", 0)

		// Two changes at once are one, of which the last state is told.
		f.setWAN(netip.Addr{})
		began := time.Since(sock.began)
		time.Sleep(10 * time.Millisecond)
		f.setWAN(netip.MustParseAddr("198.51.100.2"))
		check(began+firstInterval, "c6336402", 0)

		f.setWAN(netip.Addr{})
		check(time.Since(sock.began)+firstInterval, "00000000", 3)
	})
}

// TestAnnounceEpoch expects the passing of time in announcements.
func TestAnnounceEpoch(t *testing.T) {
	f := newFake()
	run(t, f, func(t *testing.T, sock *fakeSocket) {
		t.Helper()
		f.sleep(time.Minute)
		time.Sleep(300 * time.Millisecond)
		all := sock.takeSent()
		require.Len(t, all, 6)
		assert.Equal(t, uint32(100), binary.BigEndian.Uint32(all[0].data[4:]))
		assert.Equal(t, uint32(160), binary.BigEndian.Uint32(all[3].data[4:]))
		assert.Equal(t, uint32(160), binary.BigEndian.Uint32(all[4].data[atEpoch:]))
	})
}

// TestAnnounceAgain begins anew when something changes before all was announced.
func TestAnnounceAgain(t *testing.T) {
	f := newFake()
	run(t, f, func(t *testing.T, sock *fakeSocket) {
		t.Helper()
		time.Sleep(time.Second) // at 0, 250 and 750 ms
		assert.Len(t, sock.takeSent(), 3*3)
		f.setWAN(netip.MustParseAddr("198.51.100.2"))
		time.Sleep(5 * time.Minute)
		assert.Len(t, sock.takeSent(), 10*3)
	})
}

// TestUnready answers and announces nothing before the leases have been read.
func TestUnready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.changed, f.ready = make(chan struct{}), make(chan struct{})
		runUnready(t, f, func(t *testing.T, sock *fakeSocket) {
			t.Helper()
			sock.requests <- packet(netip.MustParseAddrPort("192.168.1.10:40000"), []byte{0, 0})
			time.Sleep(time.Minute)
			assert.Empty(t, sock.takeSent())
			close(f.ready)
			synctest.Wait()
			assert.Len(t, sock.takeSent(), 3)
			sock.requests <- packet(netip.MustParseAddrPort("192.168.1.10:40000"), []byte{0, 0})
			synctest.Wait()
			assert.Len(t, sock.takeSent(), 1)
		})
	})
}

// TestServe answers each request to where it came from, and none that went to a group.
func TestServe(t *testing.T) {
	f := newFake()
	run(t, f, func(t *testing.T, sock *fakeSocket) {
		t.Helper()
		sock.takeSent()
		from := netip.MustParseAddrPort("192.168.1.10:40000")
		p := packet(from, []byte{0, 0})
		p.To = netip.MustParseAddr("224.0.0.1")
		sock.requests <- p
		synctest.Wait()
		assert.Empty(t, sock.takeSent())
		sock.requests <- packet(from, []byte{0, 0})
		sock.requests <- packet(netip.MustParseAddrPort("192.168.1.11:40001"), request(netip.MustParseAddr("192.168.1.11"), 3600, 5000, 0))
		synctest.Wait()
		all := sock.takeSent()
		require.Len(t, all, 2)
		to := map[netip.AddrPort]int{}
		for _, a := range all {
			to[a.to] = len(a.data)
		}
		assert.Equal(t, map[netip.AddrPort]int{from: 12, netip.MustParseAddrPort("192.168.1.11:40001"): 60}, to)
	})
}

// TestReadFails ends a server with the error of its socket.
func TestReadFails(t *testing.T) {
	f := newFake()
	s := f.server()
	s.socket, s.devices = failingSocket{}, func() []lan.Device { return nil }
	assert.ErrorContains(t, s.Run(t.Context()), "read requests of NAT-PMP and PCP: broken")
}

type failingSocket struct{ socket }

func (failingSocket) Read([]byte) (lan.Packet, error) { return lan.Packet{}, errors.New("broken") }
func (failingSocket) Close() error                    { return nil }

// TestOrder answers requests about one port in their order though changes take time, those of many ports at the same time,
// and drops what is too much.
func TestOrder(t *testing.T) {
	f := newFake()
	slow := &slowLeases{fakeLeases: f}
	synctest.Test(t, func(t *testing.T) {
		f.changed, f.ready = make(chan struct{}), make(chan struct{})
		close(f.ready)
		sock := newFakeSocket()
		s := newServer(slow)
		s.now = f.time
		s.socket, s.devices = sock, func() []lan.Device { return nil }
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		client := netip.MustParseAddr("192.168.1.10")
		from := netip.AddrPortFrom(client, 40000)

		for i := range 20 { // made, ended, made, ...: 1 + behind are answered
			sock.requests <- packet(from, request(client, uint32(3600*(1-i%2)), 5000, 0))
		}
		time.Sleep(time.Hour)
		all := sock.takeSent()
		require.Len(t, all, 1+behind)
		for i, a := range all {
			assert.Equal(t, uint32(3600*(1-i%2)), binary.BigEndian.Uint32(a.data[atLifetime:]))
		}

		began := time.Now()
		for i := range 2 * atOnce {
			sock.requests <- packet(from, request(client, 3600, uint16(6000+i), 0))
		}
		time.Sleep(10 * time.Second)
		all = sock.takeSent()
		assert.Len(t, all, 2*atOnce)
		assert.Equal(t, 2*time.Second, all[len(all)-1].at-began.Sub(sock.began))
		cancel()
		assert.NoError(t, <-ended)
	})
}

// slowLeases take a second for each change.
type slowLeases struct{ *fakeLeases }

func (s *slowLeases) Grant(ctx context.Context, want lease.Request) (lease.Lease, error) {
	time.Sleep(time.Second)
	return s.fakeLeases.Grant(ctx, want)
}
