// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// accepting counts the loops that accept connections of a proxy.
func accepting(p Proxy) int {
	n := 0
	for i := range p.(*tcpProxy).shards {
		if s := p.(*tcpProxy).shards[i].Load(); s != nil && s.accepts.Load() {
			n++
		}
	}
	return n
}

// askAtOnce has clients connect and ask at the same time, again and again until done.
// The first error of a client ends it.
func askAtOnce(front string, clients int, done func() bool) error {
	errs := make([]error, clients)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for errs[i] == nil && !done() {
				errs[i] = askOnce(front)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestListenerIsShared: more loops accept when there are clients for them, and all but the
// home loop stop when clients come one after another. Those in the queue then are served.
func TestListenerIsShared(t *testing.T) {
	noLeak(t)
	g := newGroup(t, &GroupOptions{Loops: 3})
	p, err := New(mustTCP(t, "127.0.0.1:0"), tcpBackend(t, "127.0.0.1:0", echoTCP), &Options{Group: g})
	serve(t, p, err)
	front, tp := p.FrontendAddr().String(), p.(*tcpProxy)
	for range 3 {
		require.NoError(t, askOnce(front))
		require.Equal(t, 1, accepting(p), "one client is no reason")
		require.NoError(t, askAtOnce(front, 16, func() bool { return accepting(p) == 3 }))
		eventually(t, "none is left", func() bool { return p.Stats().Live == 0 })
		tp.home.with(func() { // it may be woken, and cannot take anything
			c := dial(t, "tcp", front)
			for _, l := range g.started() {
				if l != tp.home {
					l.with(func() {
						s := tp.shard(l)
						for range manyAlone {
							s.leaveIfAlone()
						}
						require.False(t, s.accepts.Load())
						s.share()
						s.delay = minAcceptDelay // as after an accept that failed
						for range manyAlone {
							s.leaveIfAlone()
						}
						require.True(t, s.accepts.Load(), "a client may wait whom nobody else was told of")
						s.unwatch()
						s.events = 0
					})
				}
			}
			roundTrip(t, c, phrase)
			require.NoError(t, c.Close())
		})
		require.Equal(t, 1, accepting(p))
		eventually(t, "none is left", func() bool { return p.Stats().Live == 0 })
	}
	require.Zero(t, p.Stats().AcceptErrors)
}

// TestEndWhileShared: a proxy whose listener several loops watch can end in each way under
// load, and leaves nothing behind.
func TestEndWhileShared(t *testing.T) {
	noLeak(t)
	backend := tcpBackend(t, "127.0.0.1:0", echoTCP)
	ends := map[string]func(*Group, Proxy) error{
		"close":  func(_ *Group, p Proxy) error { return p.Close() },
		"retire": func(_ *Group, p Proxy) error { return p.Retire() },
		"group":  func(g *Group, _ Proxy) error { return g.Close() },
		"shutdown": func(_ *Group, p Proxy) error {
			ctx, cancel := context.WithTimeout(context.Background(), deadline)
			defer cancel()
			return p.Shutdown(ctx)
		},
		"leave": func(g *Group, _ Proxy) error { g.Leave(); return nil },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			for range 20 {
				g := NewGroup(&GroupOptions{Loops: 3})
				p, err := New(mustTCP(t, "127.0.0.1:0"), backend, &Options{Group: g})
				require.NoError(t, err)
				require.NoError(t, p.Open())
				front := p.FrontendAddr().String()
				var clients sync.WaitGroup
				clients.Go(func() {
					_ = askAtOnce(front, 16, func() bool { return false }) // it ends with the proxy
				})
				eventually(t, "all accept", func() bool { return accepting(p) == 3 })
				time.Sleep(rand.N(2 * time.Millisecond))
				require.NoError(t, end(g, p))
				require.Zero(t, accepting(p))
				clients.Wait()
				eventually(t, "none is left", func() bool { return p.Stats().Live == 0 })
				require.NoError(t, g.Close())
			}
		})
	}
}
