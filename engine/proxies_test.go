// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"maps"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/portholder"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/proxy"
)

// A replacement that fails at one proxy leaves those before it with their old backends.
func TestReplaceOfProxiesUndone(t *testing.T) {
	e, b := openFake(t)
	holdPorts(t, e)
	publish(t, e, "127.0.0.1:18080->172.30.0.2:80", "127.0.0.1:18081->172.30.0.2:81")
	first := proxiesOf(e)[portset.Frontend{Proto: nat.TCP, AddrPort: netip.MustParseAddrPort("127.0.0.1:18080")}]
	second := proxiesOf(e)[portset.Frontend{Proto: nat.TCP, AddrPort: netip.MustParseAddrPort("127.0.0.1:18081")}]
	require.NoError(t, second.Close())
	before := b.kernel.Dump()

	_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, mapAll(t, "127.0.0.1:18080->172.30.0.3:80", "127.0.0.1:18081->172.30.0.3:81")...)
	require.ErrorIs(t, err, proxy.ErrClosed)
	require.Equal(t, before, b.kernel.Dump())
	require.Equal(t, "172.30.0.2:80", first.BackendAddr().String())
	require.Equal(t, []string{"127.0.0.1:18080-18081->172.30.0.2:80-81"}, publishedBy(e))
}

// holdPorts makes an engine on a testbed, whose holder is disabled, hold ports.
func holdPorts(t *testing.T, e *Engine) {
	t.Helper()
	e.core.holder = portholder.New(holderOptions(e.core))
	t.Cleanup(func() { require.NoError(t, e.core.holder.Close()) })
}

// proxiesOf returns the open proxies.
func proxiesOf(e *Engine) map[portset.Frontend]proxy.Proxy {
	open := maps.Collect(e.core.holder.All)
	maps.DeleteFunc(open, func(_ portset.Frontend, px proxy.Proxy) bool { return px == nil })
	return open
}
