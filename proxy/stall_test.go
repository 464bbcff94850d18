// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLoopsSleepBoundedly: a loop never waits for ever, for the whole process may have
// to wait for it (see minSleep); longer and longer while nothing happens, and shortly
// again after something has.
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
