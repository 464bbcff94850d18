// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestDatagramsOfEverySize(t *testing.T) {
	noLeak(t)
	for _, host := range []string{"127.0.0.1", "::1"} {
		backend := udpEcho(t, net.JoinHostPort(host, "0"))
		p, err := New(mustUDP(t, net.JoinHostPort(host, "0")), backend, nil)
		serve(t, p, err)
		c := dial(t, "udp", p.FrontendAddr().String())
		buf := make([]byte, 1<<16)
		for _, size := range []int{0, 1, 1400, 1472, 1473, 9000, 65506, 65507} {
			msg := bytes.Repeat([]byte{byte(size), 0xa5}, size/2+1)[:size]
			_, err := c.Write(msg)
			require.NoError(t, err)
			n, err := c.Read(buf)
			require.NoError(t, err)
			require.True(t, bytes.Equal(msg, buf[:n]), "%s: %d bytes came back as %d", host, size, n)
		}
		require.Zero(t, p.Stats().Dropped)
	}
}

// TestBurstsKeepTheirBoundaries: runs of datagrams of equal and of different
// sizes, sent one by one and by UDP_SEGMENT, arrive each as it was and in
// order, although the proxy joins them.
func TestBurstsKeepTheirBoundaries(t *testing.T) {
	noLeak(t)
	sink, err := net.ListenUDP("udp", mustUDP(t, "127.0.0.1:0"))
	require.NoError(t, err)
	require.NoError(t, sink.SetReadBuffer(4<<20))
	t.Cleanup(func() { _ = sink.Close() })
	p, err := New(mustUDP(t, "127.0.0.1:0"), sink.LocalAddr(), nil)
	serve(t, p, err)
	c := dial(t, "udp", p.FrontendAddr().String()).(*net.UDPConn)
	require.NoError(t, sink.SetDeadline(time.Now().Add(deadline)))
	r := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 1<<16)
	for range 60 {
		var want [][]byte
		for range 1 + r.IntN(5) {
			size, n := 1+r.IntN(1400), 1+r.IntN(20)
			if r.IntN(3) == 0 {
				msg := make([]byte, size*n-r.IntN(size))
				for i := range msg {
					msg[i] = byte(r.Uint32())
				}
				for rest := msg; len(rest) > 0; rest = rest[min(size, len(rest)):] {
					want = append(want, rest[:min(size, len(rest))])
				}
				segment := make([]byte, unix.CmsgSpace(2))
				var ctl control
				copy(segment, ctl.b[:ctl.putSegment(0, size)])
				_, _, err := c.WriteMsgUDP(msg, segment, nil)
				require.NoError(t, err)
				continue
			}
			for range n {
				if r.IntN(8) == 0 {
					size = 1 + r.IntN(1400)
				}
				msg := make([]byte, size)
				for i := range msg {
					msg[i] = byte(r.Uint32())
				}
				want = append(want, msg)
				_, err := c.Write(msg)
				require.NoError(t, err)
			}
		}
		var answerTo net.Addr
		for i, msg := range want {
			n, from, err := sink.ReadFrom(buf)
			require.NoError(t, err)
			require.True(t, bytes.Equal(msg, buf[:n]), "datagram %d of %d: %d bytes, sent %d", i, len(want), n, len(msg))
			answerTo = from
		}
		// Back, from a backend that answers all at once.
		for _, msg := range want {
			_, err := sink.WriteTo(msg, answerTo)
			require.NoError(t, err)
		}
		for i, msg := range want {
			n, err := c.Read(buf)
			require.NoError(t, err)
			require.True(t, bytes.Equal(msg, buf[:n]), "answer %d of %d: %d bytes, sent %d", i, len(want), n, len(msg))
		}
	}
	require.Zero(t, p.Stats().Dropped)
}

func TestReplySource(t *testing.T) {
	noLeak(t)
	backend := udpEcho(t, "127.0.0.1:0")
	for _, front := range []string{"0.0.0.0:0", "[::]:0", ":0"} {
		p, err := New(mustUDP(t, front), backend, nil)
		serve(t, p, err)
		// Unconnected: it would take an answer from anywhere.
		pc, err := net.ListenUDP("udp", mustUDP(t, "127.0.0.1:0"))
		require.NoError(t, err)
		t.Cleanup(func() { _ = pc.Close() })
		require.NoError(t, pc.SetDeadline(time.Now().Add(deadline)))
		for round := range 3 {
			for _, asked := range []string{"127.0.0.1", "127.0.0.2", "127.77.0.3"} {
				to := mustUDP(t, at(asked, p.FrontendAddr()))
				_, err := pc.WriteTo([]byte(asked), to)
				require.NoError(t, err)
				buf := make([]byte, 64)
				n, from, err := pc.ReadFromUDP(buf)
				require.NoError(t, err)
				require.Equal(t, asked, string(buf[:n]))
				require.Equal(t, to.String(), from.String(), "round %d", round)
			}
		}
		// One client, three addresses asked: three flows.
		require.EqualValues(t, 3, p.Stats().Total)
	}
}

// TestStaleRefusal: ICMP errors of two datagrams without a backend do not lose the third,
// which has one.
func TestStaleRefusal(t *testing.T) {
	noLeak(t)
	for round := range 50 {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		require.NoError(t, err)
		addr := pc.LocalAddr()
		require.NoError(t, pc.Close())
		p, err := New(mustUDP(t, "127.0.0.1:0"), addr, nil)
		require.NoError(t, err)
		require.NoError(t, p.Open())
		c := dial(t, "udp", p.FrontendAddr().String())
		for i := range 2 {
			_, err := fmt.Fprintf(c, "lost %d", i)
			require.NoError(t, err)
			if round%2 == 0 {
				eventually(t, "sent on", func() bool { return p.Stats().BytesToBackend >= uint64(6*(i+1)) })
			}
		}
		eventually(t, "sent on", func() bool { return p.Stats().BytesToBackend == 12 })
		pc, err = net.ListenPacket("udp", addr.String())
		require.NoError(t, err)
		var wg sync.WaitGroup
		wg.Go(func() { echoUDP(pc) })
		roundTrip(t, c, phrase)
		require.Zero(t, p.Stats().Dropped)
		require.NoError(t, pc.Close())
		wg.Wait()
		require.NoError(t, p.Close())
	}
}

// TestStaleRefusalAhead: the same while the error is still pending on the flow's socket.
func TestStaleRefusalAhead(t *testing.T) {
	noLeak(t)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := pc.LocalAddr()
	require.NoError(t, pc.Close())
	p, err := New(mustUDP(t, "127.0.0.1:0"), addr, nil)
	serve(t, p, err)
	c := dial(t, "udp", p.FrontendAddr().String())
	up := p.(*udpProxy)
	up.home.with(func() { // the loop cannot read the error off the socket
		_, err := c.Write([]byte("refused"))
		require.NoError(t, err)
		up.ready(up.fd, evIn)
		pc, err = net.ListenPacket("udp", addr.String())
		require.NoError(t, err)
		_, err = c.Write([]byte("taken"))
		require.NoError(t, err)
		up.ready(up.fd, evIn)
	})
	defer func() { _ = pc.Close() }()
	require.NoError(t, pc.SetDeadline(time.Now().Add(deadline)))
	buf := make([]byte, 16)
	n, _, err := pc.ReadFrom(buf)
	require.NoError(t, err)
	require.Equal(t, "taken", string(buf[:n]))
	require.Zero(t, p.Stats().Dropped)
}

// TestFlood: with more sources than flows the table stays bounded, the oldest flows end,
// and new clients are served.
func TestFlood(t *testing.T) {
	noLeak(t)
	backend := udpEcho(t, "127.0.0.1:0")
	p, err := New(mustUDP(t, "127.0.0.1:0"), backend, &Options{MaxFlows: 64})
	serve(t, p, err)
	first := dial(t, "udp", p.FrontendAddr().String())
	roundTrip(t, first, phrase)
	for i := range 1000 {
		c := dial(t, "udp", p.FrontendAddr().String())
		_, err := c.Write([]byte("x"))
		require.NoError(t, err)
		if i%10 == 0 { // activity keeps a flow from being the oldest
			roundTrip(t, first, phrase)
		}
		require.LessOrEqual(t, p.Stats().Live, int64(64))
	}
	eventually(t, "all counted", func() bool { return p.Stats().Total == 1001 })
	require.EqualValues(t, 64, p.Stats().Live)
	require.EqualValues(t, 1001-64, p.Stats().Evicted)
	roundTrip(t, dial(t, "udp", p.FrontendAddr().String()), phrase)
}

func TestFlowsExpire(t *testing.T) {
	noLeak(t)
	const idle = 400 * time.Millisecond
	backend, err := net.ListenUDP("udp", mustUDP(t, "127.0.0.1:0"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = backend.Close() })
	require.NoError(t, backend.SetDeadline(time.Now().Add(deadline)))
	for side, fromClient := range bothSides() {
		t.Run(side, func(t *testing.T) {
			p, err := New(mustUDP(t, "127.0.0.1:0"), backend.LocalAddr(), &Options{IdleTimeout: idle})
			serve(t, p, err)
			c := dial(t, "udp", p.FrontendAddr().String())
			buf := make([]byte, 16)
			_, err = c.Write([]byte("hello"))
			require.NoError(t, err)
			_, flow, err := backend.ReadFrom(buf)
			require.NoError(t, err)
			// Either direction alone keeps the flow.
			for range 10 {
				time.Sleep(idle / 5)
				if fromClient {
					_, err := c.Write([]byte("x"))
					require.NoError(t, err)
					_, from, err := backend.ReadFrom(buf)
					require.NoError(t, err)
					require.Equal(t, flow.String(), from.String())
				} else {
					_, err := backend.WriteTo([]byte("x"), flow)
					require.NoError(t, err)
					_, err = c.Read(buf)
					require.NoError(t, err)
				}
			}
			require.EqualValues(t, 1, p.Stats().Total)
			eventually(t, "flow expired", func() bool { return p.Stats().Live == 0 })
			require.Zero(t, p.Stats().Evicted)
			_, err = c.Write([]byte("again"))
			require.NoError(t, err)
			_, _, err = backend.ReadFrom(buf)
			require.NoError(t, err)
			require.EqualValues(t, 2, p.Stats().Total)
		})
	}
}

func TestUDPShutdownDrains(t *testing.T) {
	noLeak(t)
	backend, err := net.ListenUDP("udp", mustUDP(t, "127.0.0.1:0"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = backend.Close() })
	require.NoError(t, backend.SetDeadline(time.Now().Add(deadline)))
	p, err := New(mustUDP(t, "127.0.0.1:0"), backend.LocalAddr(), nil)
	serve(t, p, err)
	c := dial(t, "udp", p.FrontendAddr().String())
	_, err = c.Write([]byte("question"))
	require.NoError(t, err)
	buf := make([]byte, 64)
	_, flow, err := backend.ReadFrom(buf)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- p.Shutdown(context.Background()) }()
	// The answer to an earlier datagram arrives; a new client gets no flow.
	time.Sleep(50 * time.Millisecond)
	_, err = dial(t, "udp", p.FrontendAddr().String()).Write([]byte("late"))
	require.NoError(t, err)
	_, err = backend.WriteTo([]byte("answer"), flow)
	require.NoError(t, err)
	n, err := c.Read(buf)
	require.NoError(t, err)
	require.Equal(t, "answer", string(buf[:n]))
	require.NoError(t, <-done)
	require.Equal(t, Stats{Total: 1, BytesToBackend: 8, BytesToClient: 6, Dropped: 1}, p.Stats())
}

// TestManyClientsAtOnce: answers of many flows share system calls and must
// not be mixed up.
func TestManyClientsAtOnce(t *testing.T) {
	noLeak(t)
	backend := udpEcho(t, "127.0.0.1:0")
	p, err := New(mustUDP(t, ":0"), backend, nil)
	serve(t, p, err)
	var wg sync.WaitGroup
	for i := range 50 {
		c := dial(t, "udp", at([]string{"127.0.0.1", "::1", "127.0.0.9"}[i%3], p.FrontendAddr()))
		wg.Go(func() {
			buf := make([]byte, 1<<16)
			for n := range 40 {
				msg := strings.Repeat(fmt.Sprintf("%d/%d ", i, n), 1+(i*n)%300)
				if _, err := c.Write([]byte(msg)); err != nil {
					t.Error(err)
					return
				}
				got, err := c.Read(buf)
				if err != nil || string(buf[:got]) != msg {
					t.Errorf("client %d got %q, %v", i, buf[:min(got, 40)], err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// FuzzControlMessages: messages that were put can be parsed, and no content makes the
// parser read outside of the buffer.
func FuzzControlMessages(f *testing.F) {
	var c control
	n := c.putLocal(0, &pktinfo{n: unix.SizeofInet6Pktinfo}, 0)
	n = c.putSegment(n, 1400)
	f.Add(c.b[:n])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var c control
		n := copy(c.b[:], b)
		var local arrival
		c.parse(n, &local)
		require.Contains(t, []uint8{0, unix.SizeofInet4Pktinfo, unix.SizeofInet6Pktinfo}, local.n)
	})
}

func TestControlMessagesRoundTrip(t *testing.T) {
	for _, want := range []arrival{
		{},
		{pktinfo: pktinfo{n: unix.SizeofInet4Pktinfo, data: [20]byte{4: 127, 7: 2}}},
		{pktinfo: pktinfo{n: unix.SizeofInet6Pktinfo, data: [20]byte{0: 0x20, 15: 1}}},
		{pktinfo: pktinfo{n: unix.SizeofInet6Pktinfo, data: [20]byte{0: 0xfe, 1: 0x80, 15: 1, 16: 7}}},
	} {
		var c control
		n := c.putLocal(0, &want.pktinfo, 0)
		var size [4]byte
		binary.NativeEndian.PutUint32(size[:], 1200)
		n = c.put(n, unix.IPPROTO_UDP, unix.UDP_GRO, size[:])
		require.LessOrEqual(t, n, controlRoom)
		var got arrival
		require.Equal(t, 1200, c.parse(n, &got))
		require.Equal(t, want, got)
	}
}

// TestJoinedTakenApart: without UDP_SEGMENT, datagrams that UDP_GRO joined leave one by
// one, more of them than one call takes, and failures are counted.
func TestJoinedTakenApart(t *testing.T) {
	sink, err := net.ListenUDP("udp", mustUDP(t, "127.0.0.1:0"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = sink.Close() })
	require.NoError(t, sink.SetReadBuffer(4<<20))
	require.NoError(t, sink.SetReadDeadline(time.Now().Add(deadline)))
	to, err := encode(sink.LocalAddr().(*net.UDPAddr).AddrPort())
	require.NoError(t, err)
	fd, e := socket(to.family, unix.SOCK_DGRAM)
	require.Equal(t, noErrno, e)
	defer closeFD(fd)
	require.Equal(t, noErrno, connect(fd, to))
	b := newUDPBatch()
	for _, maxGSO := range []int{0, maxDatagram} {
		var dropped, sent atomic.Uint64
		b.to = outlet{fd: fd, maxGSO: &maxGSO, dropped: &dropped, bytes: &sent}
		var want []byte
		for i := range 3 {
			b.size[i], b.seg[i] = 63*100+50, 100
			for j := range b.size[i] {
				b.buf[i*bufferSize+j] = byte(i*7 + j)
			}
			want = append(want, b.buf[i*bufferSize:][:b.size[i]]...)
		}
		b.queue(0, 3, nil)
		b.send()
		var got []byte
		buf := make([]byte, 1000)
		for i := range 3 * 64 {
			n, err := sink.Read(buf)
			require.NoError(t, err)
			if i%64 == 63 {
				require.Equal(t, 50, n)
			} else {
				require.Equal(t, 100, n)
			}
			got = append(got, buf[:n]...)
		}
		require.Equal(t, want, got)
		require.Zero(t, dropped.Load())
		require.EqualValues(t, len(want), sent.Load())

		b.to = outlet{fd: -1, maxGSO: &maxGSO, dropped: &dropped, bytes: &sent}
		b.queue(0, 3, nil)
		b.send()
		require.EqualValues(t, 3*64, dropped.Load())
	}
}
