// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestLoopsSleepBoundedly: a loop never waits without a bound, because the whole process
// may have to wait for it (see minSleep). It sleeps longer while nothing happens, and
// short again after an event.
func TestLoopsSleepBoundedly(t *testing.T) {
	p, err := New(mustTCP(t, "127.0.0.1:0"), tcpBackend(t, "127.0.0.1:0", func(net.Conn) {}), nil)
	serve(t, p, err)
	l := p.(*tcpProxy).home
	sleep := func() (ms int) {
		require.True(t, l.with(func() { ms = l.timeout() }))
		return ms
	}
	require.Positive(t, sleep())
	eventually(t, "it sleeps longer", func() bool { return sleep() >= 4*minSleep })
	l.with(func() { l.sleep = maxSleep })
	dial(t, "tcp", p.FrontendAddr().String())
	eventually(t, "it sleeps shortly", func() bool { return sleep() < maxSleep })
}

// TestWithWakes: a loop is woken if with armed a timer before the end of its sleep, and
// only then.
func TestWithWakes(t *testing.T) {
	noLeak(t)
	g := newGroup(t, nil)
	l, err := g.home()
	require.NoError(t, err)
	woken := func() bool { // the loop itself never reads its eventfd
		_, err := unix.Read(l.wakeup, make([]byte, 8))
		return err == nil
	}
	timers := []*timer{{expire: func() {}}, {expire: func() {}}, {expire: func() {}}}
	for i, in := range []time.Duration{time.Hour, 2 * time.Hour, time.Minute} {
		l.with(func() { l.arm(timers[i], l.now+int64(in)) })
		require.Equal(t, i != 1, woken(), in)
	}
	l.with(func() {})
	require.False(t, woken())
	l.with(func() {
		for _, timer := range timers {
			l.disarm(timer)
		}
	})
}
