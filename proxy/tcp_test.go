// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// tcpPair is a proxy with one connection through it, seen from both ends.
type tcpPair struct {
	proxy           Proxy
	client, backend *net.TCPConn
}

// newTCPPair makes one; both ends have deadlines.
func newTCPPair(tb testing.TB, opts *Options) *tcpPair {
	tb.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = l.Close() })
	p, err := New(mustTCP(tb, "127.0.0.1:0"), l.Addr(), opts)
	serve(tb, p, err)
	pair := &tcpPair{proxy: p, client: dial(tb, "tcp", p.FrontendAddr().String()).(*net.TCPConn)}
	require.NoError(tb, l.SetDeadline(time.Now().Add(deadline)))
	pair.backend, err = l.AcceptTCP()
	require.NoError(tb, err)
	require.NoError(tb, pair.backend.SetDeadline(time.Now().Add(deadline)))
	tb.Cleanup(func() { _ = pair.backend.Close() })
	return pair
}

// ends gives the two ends in either order, for tests that hold both ways.
func (p *tcpPair) ends(fromClient bool) (near, far *net.TCPConn) {
	if fromClient {
		return p.client, p.backend
	}
	return p.backend, p.client
}

// onlyConn is the connection of a proxy that has one, established on its home loop,
// whose turn the caller has.
func (p *tcpProxy) onlyConn() *tcpConn {
	s := p.shard(p.home)
	if n := s.recent.front; n != nil {
		return n.item
	}
	return s.conns.front.item
}

// exchange sends a message from each end to the other.
func (p *tcpPair) exchange(tb testing.TB) {
	tb.Helper()
	carries(tb, p.client, p.backend, phrase)
	carries(tb, p.backend, p.client, phrase)
}

// bothSides are the ends to begin from: is it the client?
func bothSides() map[string]bool { return map[string]bool{"client": true, "backend": false} }

func TestHalfClose(t *testing.T) {
	noLeak(t)
	for side, fromClient := range bothSides() {
		t.Run(side, func(t *testing.T) {
			pair := newTCPPair(t, nil)
			near, far := pair.ends(fromClient)
			_, err := io.WriteString(near, "question")
			require.NoError(t, err)
			require.NoError(t, near.CloseWrite())
			got, err := io.ReadAll(far)
			require.NoError(t, err)
			require.Equal(t, "question", string(got))
			// The other direction stays open.
			require.EqualValues(t, 1, pair.proxy.Stats().Live)
			_, err = io.WriteString(far, "answer")
			require.NoError(t, err)
			buf := make([]byte, 6)
			_, err = io.ReadFull(near, buf)
			require.NoError(t, err)
			require.Equal(t, "answer", string(buf))
			require.NoError(t, far.CloseWrite())
			n, err := near.Read(buf)
			require.ErrorIs(t, err, io.EOF)
			require.Zero(t, n)
			eventually(t, "connection gone", func() bool { return pair.proxy.Stats().Live == 0 })
			require.Equal(t, Stats{Total: 1, BytesToBackend: uint64(8 - 2*b2i(!fromClient)), BytesToClient: uint64(6 + 2*b2i(!fromClient))}, pair.proxy.Stats())
		})
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestResetIsPassedOn(t *testing.T) {
	noLeak(t)
	for side, fromClient := range bothSides() {
		t.Run(side, func(t *testing.T) {
			pair := newTCPPair(t, nil)
			near, far := pair.ends(fromClient)
			_, err := io.WriteString(near, "half a senten")
			require.NoError(t, err)
			buf := make([]byte, 13)
			_, err = io.ReadFull(far, buf)
			require.NoError(t, err)
			require.NoError(t, near.SetLinger(0))
			require.NoError(t, near.Close())
			_, err = far.Read(buf)
			require.ErrorIs(t, err, unix.ECONNRESET)
			eventually(t, "connection gone", func() bool { return pair.proxy.Stats().Live == 0 })
		})
	}
}

// TestResetAfterFIN: the reset comes when one direction has ended already.
func TestResetAfterFIN(t *testing.T) {
	for side, fromClient := range bothSides() {
		t.Run(side, func(t *testing.T) {
			pair := newTCPPair(t, nil)
			near, far := pair.ends(fromClient)
			require.NoError(t, far.CloseWrite())
			_, err := near.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
			require.NoError(t, near.SetLinger(0))
			require.NoError(t, near.Close())
			eventually(t, "reset arrived", func() bool {
				_, err := far.Write([]byte("x"))
				return errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
			})
			eventually(t, "connection gone", func() bool { return pair.proxy.Stats().Live == 0 })
		})
	}
}

// TestResetGoesPastStalledData: a far end that reads nothing is reset with the near end.
func TestResetGoesPastStalledData(t *testing.T) {
	for side, fromClient := range bothSides() {
		t.Run(side, func(t *testing.T) {
			pair := newTCPPair(t, nil)
			near, _ := pair.ends(fromClient)
			fillUp(t, near)
			require.NoError(t, near.SetLinger(0))
			require.NoError(t, near.Close())
			eventually(t, "connection gone", func() bool { return pair.proxy.Stats().Live == 0 })
		})
	}
}

// fillUp writes until nothing moves any more and returns how much it wrote.
func fillUp(tb testing.TB, c net.Conn) int {
	tb.Helper()
	total, still := 0, 0
	buf := bytes.Repeat([]byte("0123456789abcdef"), 4<<10)
	for still < 3 {
		require.NoError(tb, c.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
		n, err := c.Write(buf)
		total += n
		if still++; n > 0 {
			still = 0
		}
		if err != nil {
			require.ErrorIs(tb, err, os.ErrDeadlineExceeded)
		}
	}
	require.NoError(tb, c.SetDeadline(time.Now().Add(deadline)))
	return total
}

// wantReset connects and expects a reset.
func wantReset(t *testing.T, addr string) {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, deadline)
	if err == nil { // else the reset was faster than package net
		defer func() { _ = c.Close() }()
		require.NoError(t, c.SetDeadline(time.Now().Add(deadline)))
		_, err = c.Read(make([]byte, 1))
	}
	require.ErrorIs(t, err, unix.ECONNRESET)
}

func TestDeadBackendIsTold(t *testing.T) {
	noLeak(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	dead := l.Addr()
	require.NoError(t, l.Close())
	p, err := New(mustTCP(t, "127.0.0.1:0"), dead, nil)
	serve(t, p, err)
	for range 3 {
		wantReset(t, p.FrontendAddr().String())
	}
	eventually(t, "counted", func() bool { return p.Stats() == Stats{Total: 3, RefusedDials: 3} })
}

func TestBlackholedDialTimesOut(t *testing.T) {
	noLeak(t)
	hole, err := Bind(mustTCP(t, "127.0.0.1:0"), nil) // drops every SYN
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, hole.Close()) })
	p, err := New(mustTCP(t, "127.0.0.1:0"), hole.Addr(), &Options{DialTimeout: 150 * time.Millisecond, IdleTimeout: time.Hour})
	serve(t, p, err)
	c := dial(t, "tcp", p.FrontendAddr().String())
	_, err = io.WriteString(c, "into the void")
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.ECONNRESET)
	eventually(t, "counted", func() bool { s := p.Stats(); return s.Live == 0 && s.RefusedDials == 1 })

	// A client that gives up ends the dial.
	p2, err := New(mustTCP(t, "127.0.0.1:0"), hole.Addr(), &Options{DialTimeout: time.Hour})
	serve(t, p2, err)
	c = dial(t, "tcp", p2.FrontendAddr().String())
	eventually(t, "dialing", func() bool { return p2.Stats().Live == 1 })
	require.NoError(t, c.(*net.TCPConn).SetLinger(0))
	require.NoError(t, c.Close())
	eventually(t, "gone", func() bool { return p2.Stats().Live == 0 })
	require.Zero(t, p2.Stats().RefusedDials)
}

// TestDataBeforeConnect: what a client sends, and its FIN, wait for a backend
// that is slow to answer.
func TestDataBeforeConnect(t *testing.T) {
	late, err := Bind(mustTCP(t, "127.0.0.1:0"), nil)
	require.NoError(t, err)
	echo := tcpBackend(t, "127.0.0.1:0", func(c net.Conn) { _, _ = io.Copy(c, c) })
	p, err := New(mustTCP(t, "127.0.0.1:0"), late.Addr(), nil)
	serve(t, p, err)
	c := dial(t, "tcp", p.FrontendAddr().String()).(*net.TCPConn)
	_, err = io.WriteString(c, phrase)
	require.NoError(t, err)
	require.NoError(t, c.CloseWrite())
	eventually(t, "dialing", func() bool { return p.Stats().Live == 1 })
	second, err := late.Proxy(echo, nil)
	serve(t, second, err) // a proxy behind a proxy: its port held the SYN back
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, phrase, string(got))
}

// TestBackpressure: the proxy stops reading for a backend that does not, and nothing is
// lost when the backend reads at last.
func TestBackpressure(t *testing.T) {
	noLeak(t)
	for _, pipes := range []int{0, 1, -1} {
		t.Run(strconv.Itoa(pipes), func(t *testing.T) {
			g := NewGroup(&GroupOptions{MaxPipes: pipes})
			t.Cleanup(func() { require.NoError(t, g.Close()) })
			for side, fromClient := range bothSides() {
				t.Run(side, func(t *testing.T) {
					pair := newTCPPair(t, &Options{Group: g})
					near, far := pair.ends(fromClient)
					in := fillUp(t, near)
					s := pair.proxy.Stats()
					out := int(s.BytesToBackend + s.BytesToClient)
					t.Logf("%d MiB went in before it stalled", in>>20)
					require.Less(t, in, 64<<20) // four socket buffers at their limits and a pipe
					require.Less(t, out, in)
					require.NoError(t, near.CloseWrite())
					n, err := io.Copy(io.Discard, far)
					require.NoError(t, err)
					require.EqualValues(t, in, n)
				})
			}
		})
	}
}

func TestIdleTimeout(t *testing.T) {
	pair := newTCPPair(t, &Options{IdleTimeout: 400 * time.Millisecond})
	begin := time.Now()
	for time.Since(begin) < 800*time.Millisecond { // traffic one way keeps it
		_, err := pair.backend.Write([]byte("x"))
		require.NoError(t, err)
		_, err = pair.client.Read(make([]byte, 1))
		require.NoError(t, err)
		time.Sleep(50 * time.Millisecond)
	}
	_, err := pair.client.Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.ECONNRESET)
	_, err = pair.backend.Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.ECONNRESET)
}

// sendUrgent sends one byte out of band.
func sendUrgent(t *testing.T, c *net.TCPConn) {
	t.Helper()
	rc, err := c.SyscallConn()
	require.NoError(t, err)
	var serr error
	require.NoError(t, rc.Write(func(fd uintptr) bool {
		serr = unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB|unix.MSG_DONTWAIT, nil)
		return !errors.Is(serr, unix.EAGAIN)
	}))
	require.NoError(t, serr)
}

// TestUrgentData: an urgent byte neither stops the stream nor is lost.
func TestUrgentData(t *testing.T) {
	for side, fromClient := range bothSides() {
		t.Run(side, func(t *testing.T) {
			pair := newTCPPair(t, nil)
			near, far := pair.ends(fromClient)
			chunk := bytes.Repeat([]byte("abcdefgh"), 32<<10) // enough to be spliced
			const chunks = 5
			want := bytes.Repeat(append(bytes.Clone(chunk), "!after"...), chunks)
			received := goErr(func() error {
				got := make([]byte, len(want))
				n, err := io.ReadFull(far, got)
				if err == nil && !bytes.Equal(want, got) {
					err = errors.New("other bytes came out than went in")
				}
				if err != nil {
					return fmt.Errorf("after %d of %d bytes: %w", n, len(want), err)
				}
				return nil
			})
			for range chunks {
				_, err := near.Write(chunk)
				require.NoError(t, err)
				sendUrgent(t, near)
				_, err = io.WriteString(near, "after")
				require.NoError(t, err)
			}
			require.NoError(t, <-received)
		})
	}
}

// TestUrgentDataAndEnd: splice returns 0 before urgent data that the end follows, which is
// not the end. Here the loop has no event of them yet.
func TestUrgentDataAndEnd(t *testing.T) {
	for side, fromClient := range bothSides() {
		t.Run(side, func(t *testing.T) {
			pair := newTCPPair(t, nil)
			near, far := pair.ends(fromClient)
			_, err := near.Write([]byte("x")) // far's kernel may be ahead of the loop
			require.NoError(t, err)
			_, err = far.Read(make([]byte, 1))
			require.NoError(t, err)
			p := pair.proxy.(*tcpProxy)
			p.home.with(func() {
				c := p.onlyConn()
				sendUrgent(t, near)
				_, err := io.WriteString(near, "after")
				require.NoError(t, err)
				require.NoError(t, near.CloseWrite())
				from := backend
				if fromClient {
					from = client
				}
				h := &c.side[from]
				h.readable, h.bulk = true, true
				_, ok := c.move(from)
				require.True(t, ok)
			})
			got, err := io.ReadAll(far)
			require.NoError(t, err)
			require.Equal(t, "!after", string(got))
		})
	}
}

// TestBytesExact sends random writes both ways at once through several
// connections and compares the sums.
func TestBytesExact(t *testing.T) {
	noLeak(t)
	total := labtest.Rounds(t, "MiB through proxies", 64, 1024) << 20
	for name, opts := range map[string]*GroupOptions{"splice": {Loops: 3}, "few pipes": {MaxPipes: 1, Loops: 1}, "copy": {MaxPipes: -1}} {
		t.Run(name, func(t *testing.T) {
			g := NewGroup(opts)
			t.Cleanup(func() { require.NoError(t, g.Close()) })
			var wg sync.WaitGroup
			for i := range 4 {
				pair := newTCPPair(t, &Options{Group: g})
				require.NoError(t, pair.client.SetDeadline(time.Now().Add(15*time.Minute)))
				require.NoError(t, pair.backend.SetDeadline(time.Now().Add(15*time.Minute)))
				for j, fromClient := range []bool{true, false} {
					near, far := pair.ends(fromClient)
					seed := rand.New(rand.NewPCG(uint64(i), uint64(j)))
					sum := make(chan [32]byte, 1)
					wg.Go(func() { sum <- sendRandom(t, near, seed, total/24) })
					wg.Go(func() {
						h := sha256.New()
						_, err := io.Copy(h, slow{far, rand.New(rand.NewPCG(uint64(j), uint64(i)))})
						if err != nil {
							t.Error(err)
						}
						if want := <-sum; !bytes.Equal(want[:], h.Sum(nil)) {
							t.Error("other bytes came out than went in")
						}
					})
				}
			}
			wg.Wait()
		})
	}
}

// sendRandom writes n bytes in chunks of all sizes, then FIN, and returns
// their sum.
func sendRandom(t *testing.T, c *net.TCPConn, r *rand.Rand, n int) (sum [32]byte) {
	t.Helper()
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for i := range buf {
		buf[i] = byte(r.Uint32())
	}
	for n > 0 {
		size := min(1<<r.IntN(20)+r.IntN(3)-1, n)
		chunk := buf[r.IntN(len(buf)-size+1):][:size]
		h.Write(chunk)
		if _, err := c.Write(chunk); err != nil {
			t.Error(err)
			return
		}
		n -= size
		if r.IntN(50) == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	if err := c.CloseWrite(); err != nil {
		t.Error(err)
	}
	return [32]byte(h.Sum(nil))
}

// slow is a reader that takes different amounts and sleeps now and then, so that the
// proxy's send buffer fills up.
type slow struct {
	r    io.Reader
	rand *rand.Rand
}

func (s slow) Read(b []byte) (int, error) {
	if s.rand.IntN(100) == 0 {
		time.Sleep(2 * time.Millisecond)
	}
	return s.r.Read(b[:1+s.rand.IntN(len(b))])
}

func TestShutdownDrains(t *testing.T) {
	noLeak(t)
	pair := newTCPPair(t, nil)
	addr := pair.proxy.FrontendAddr().String()
	done := make(chan error, 1)
	go func() { done <- pair.proxy.Shutdown(context.Background()) }()
	eventually(t, "new connections refused", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.(*net.TCPConn).SetLinger(0) // it must not live on
			_ = c.Close()
		}
		return errors.Is(err, unix.ECONNREFUSED)
	})
	_, err := io.WriteString(pair.client, phrase)
	require.NoError(t, err)
	got := make([]byte, len(phrase))
	_, err = io.ReadFull(pair.backend, got)
	require.NoError(t, err)
	require.Empty(t, done)
	require.NoError(t, pair.client.Close())
	require.NoError(t, pair.backend.Close())
	require.NoError(t, <-done)
	require.ErrorIs(t, pair.proxy.Open(), ErrClosed)
}

func TestShutdownIsBounded(t *testing.T) {
	noLeak(t)
	pair := newTCPPair(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, pair.proxy.Shutdown(ctx), context.DeadlineExceeded)
	_, err := pair.client.Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.ECONNRESET)
}
