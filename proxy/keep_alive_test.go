// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// keepAlives returns the seconds of silence after which the client and the backend of the
// proxy's only connection are probed, 0: never; and whether the connection is recent.
func keepAlives(t *testing.T, p Proxy) (seconds [2]int, recent bool) {
	t.Helper()
	tp := p.(*tcpProxy)
	tp.home.with(func() {
		c := tp.onlyConn()
		recent = c.recent
		for i, h := range c.side {
			on, err := unix.GetsockoptInt(h.fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
			require.NoError(t, err)
			if on == 0 {
				continue
			}
			idle, err := unix.GetsockoptInt(h.fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
			require.NoError(t, err)
			seconds[i], err = unix.GetsockoptInt(h.fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)
			require.NoError(t, err)
			require.Equal(t, seconds[i], idle)
		}
	})
	return seconds, recent
}

// TestKeepAlive: both sides of a connection that lasts are probed.
func TestKeepAlive(t *testing.T) {
	noLeak(t)
	for name, test := range map[string]struct {
		opts   Options
		asks   int
		recent bool // it can be
	}{
		"default":           {Options{}, 15, true},
		"of its own":        {Options{KeepAlive: time.Minute}, 60, true},
		"with a time-out":   {Options{IdleTimeout: time.Hour}, 15, false},
		"none":              {Options{KeepAlive: -1}, 0, false},
		"none, a time-out":  {Options{KeepAlive: -1, IdleTimeout: time.Hour}, 0, false},
		"shorter than asks": {Options{KeepAlive: time.Millisecond}, 1, true},
		"longer than asks":  {Options{KeepAlive: math.MaxInt64}, 32767, true},
	} {
		t.Run(name, func(t *testing.T) {
			test.opts.Group = newGroup(t, &GroupOptions{Loops: 1})
			pair := newTCPPair(t, &test.opts)
			pair.exchange(t)
			eventually(t, "it has keep-alive", func() bool {
				seconds, recent := keepAlives(t, pair.proxy)
				if recent {
					require.True(t, test.recent)
					require.Equal(t, [2]int{test.asks, 0}, seconds)
				} else {
					require.Equal(t, [2]int{test.asks, test.asks}, seconds)
				}
				return !recent
			})
			pair.exchange(t)
		})
	}
}
