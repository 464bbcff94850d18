// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
)

// With NoSysctl, forwarding that is turned off is told once, and again after it was on.
func TestForwardingIsTold(t *testing.T) {
	b := newTestbed()
	b.kernelWith(t, false)
	b.writeSysctl(t, forwarding4, "1")
	e := b.open(t)
	publish(t, e, "8080->172.30.0.2:80")
	e.core.watching = true
	told := func() int {
		for range 2 {
			require.NoError(t, e.core.follow(t.Context()))
		}
		return e.core.events.counts.Host
	}
	require.Zero(t, told())
	for n := range 2 {
		b.writeSysctl(t, forwarding4, "0")
		require.Equal(t, n+1, told())
		b.writeSysctl(t, forwarding4, "1")
		require.Equal(t, n+1, told())
	}
}

// The status names backends whose addresses have become the host's own.
func TestBackendBecomesHost(t *testing.T) {
	b := newTestbed()
	b.kernelWith(t, false)
	b.writeSysctl(t, forwarding4, "1")
	e := b.open(t)
	publish(t, e, "8080->172.30.0.2:80", "8081->172.30.0.3:80")
	warnings := func() []string {
		st, err := e.Status(t.Context())
		require.NoError(t, err)
		return st.Warnings
	}
	require.Empty(t, warnings())
	b.host.routes[netip.MustParsePrefix("172.30.0.2/32")] = hostnet.Route{Kind: hostnet.Local}
	require.Equal(t, []string{"172.30.0.2 is an address of this host: what leads to it as a backend does not work"}, warnings())
}
