// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"crypto/sha256"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// spreading makes a group in which one loop accepts all connections of a proxy and two
// more serve bulk transfers, which connections become after a few bytes.
func spreading(tb testing.TB) *Group {
	tb.Helper()
	g := newGroup(tb, &GroupOptions{Loops: 3})
	g.lead, g.heavyAfter = math.MaxInt32/2, 256<<10
	return g
}

// TestBulkSpreads: bulk transfers are divided among all loops, other connections stay
// where they began, and no byte is lost.
func TestBulkSpreads(t *testing.T) {
	noLeak(t)
	g := spreading(t)
	backend := tcpBackend(t, "127.0.0.1:0", func(c net.Conn) { _, _ = io.Copy(c, c) })
	p, err := New(mustTCP(t, "127.0.0.1:0"), backend, &Options{Group: g})
	serve(t, p, err)
	front := p.FrontendAddr().String()
	var small []net.Conn
	for range 6 {
		c := dial(t, "tcp", front)
		roundTrip(t, c, phrase)
		small = append(small, c)
	}
	const size = 16 << 20
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	want := sha256.Sum256(data)
	var wg sync.WaitGroup
	sums := make([][sha256.Size]byte, 6)
	bulk := make([]net.Conn, len(sums))
	for i := range bulk {
		bulk[i] = dial(t, "tcp", front)
		wg.Go(func() { _, _ = bulk[i].Write(data) })
		wg.Go(func() {
			got := make([]byte, size)
			if _, err := io.ReadFull(bulk[i], got); err == nil {
				sums[i] = sha256.Sum256(got)
			}
		})
	}
	wg.Wait()
	for _, sum := range sums {
		require.Equal(t, want, sum)
	}
	loops := g.started()
	require.Len(t, loops, 3)
	spread := func() bool {
		for i, l := range loops {
			want := int32(2)
			if i == 0 {
				want += int32(len(small))
			}
			if l.heavy.Load() != 2 || l.live.Load() != want {
				return false
			}
		}
		return true
	}
	// Two loops may move too many to a third at the same time. Later moves correct that.
	eventually(t, "an even spread", func() bool {
		if spread() {
			return true
		}
		for _, c := range bulk {
			wg.Go(func() { _, _ = c.Write(data[:1<<20]) })
			_, err := io.ReadFull(c, make([]byte, 1<<20))
			require.NoError(t, err)
			wg.Wait()
		}
		return spread()
	})
	for _, c := range append(small, bulk...) {
		roundTrip(t, c, phrase)
		require.NoError(t, c.Close())
	}
	eventually(t, "all gone", func() bool { return p.Stats().Live == 0 })
	for _, l := range loops {
		require.Zero(t, l.heavy.Load())
		require.Zero(t, l.live.Load())
	}
}

// TestCloseWhileSpreading: connections between two loops end with their proxy too.
func TestCloseWhileSpreading(t *testing.T) {
	noLeak(t)
	backend := tcpBackend(t, "127.0.0.1:0", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	for i := range 60 {
		g := NewGroup(&GroupOptions{Loops: 3})
		g.heavyAfter = 64 << 10
		if i%4 < 2 {
			g.lead = math.MaxInt32 / 2
		}
		p, err := New(mustTCP(t, "127.0.0.1:0"), backend, &Options{Group: g})
		require.NoError(t, err)
		require.NoError(t, p.Open())
		var wg sync.WaitGroup
		for range 8 {
			c := dial(t, "tcp", p.FrontendAddr().String())
			wg.Go(func() {
				buf := make([]byte, 64<<10)
				for {
					if _, err := c.Write(buf); err != nil {
						return
					}
				}
			})
		}
		some := rand.Uint64N(4 << 20)
		eventually(t, "some bytes", func() bool { return p.Stats().BytesToBackend >= some })
		if i%2 == 0 {
			require.NoError(t, p.Retire())
		}
		if i%3 == 0 {
			require.NoError(t, g.Close())
		} else {
			require.NoError(t, p.Close())
			require.NoError(t, g.Close())
		}
		require.Zero(t, p.Stats().Live)
		wg.Wait()
	}
}
