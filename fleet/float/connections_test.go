// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package float_test

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// connections are new ones every 5 ms.
type connections struct {
	mu     sync.Mutex
	served map[string]int // by host
	failed []failure
}

// failure is a connection that failed, and when it began.
type failure struct {
	began time.Time
	err   error
}

// servedBy is for servers that are named as their hosts.
func servedBy(name string, _ netip.AddrPort) string { return name }

// connect connects to an address and port until stop is called, which waits. by tells the host by an answer.
func connect(t *testing.T, client *lab.NS, addr string, by func(name string, peer netip.AddrPort) string) (c *connections, stop func()) {
	t.Helper()
	c = &connections{served: make(map[string]int)}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	one := func() {
		ctx, cancel := context.WithTimeout(t.Context(), labtest.Stretch(10*time.Second))
		defer cancel()
		began := time.Now()
		name, peer, err := lab.Ask(ctx, client, "tcp", addr, netip.AddrPort{})
		c.mu.Lock()
		defer c.mu.Unlock()
		if err != nil {
			c.failed = append(c.failed, failure{began, err})
			return
		}
		c.served[by(name, peer)]++
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			wg.Go(one)
			time.Sleep(5 * time.Millisecond)
		}
	})
	return c, func() { cancel(); wg.Wait() }
}

func (c *connections) of(host string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.served[host]
}

// many waits until a host has served 50 more.
func (c *connections) many(t *testing.T, host string) {
	t.Helper()
	before := c.of(host)
	require.Eventually(t, func() bool { return c.of(host) >= before+50 }, labtest.Stretch(20*time.Second), time.Millisecond)
}

// verify fails the test if one was refused, or one failed that began after the change was done. What was open in the
// moment of the change may be reset; a program that has not closed its side yet is told that it is not connected.
func (c *connections) verify(t *testing.T, done time.Time) {
	t.Helper()
	t.Logf("%v connections, failed: %v", c.served, c.failed)
	for _, f := range c.failed {
		require.True(t, errors.Is(f.err, syscall.ECONNRESET) || errors.Is(f.err, syscall.ENOTCONN), "%v", f.err)
		require.True(t, f.began.Before(done), "%v, which began %v after the change", f.err, f.began.Sub(done))
	}
}
