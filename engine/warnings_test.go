// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
)

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
