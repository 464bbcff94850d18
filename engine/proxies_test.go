// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"log/slog"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/proxy"
)

// A retarget that fails at one proxy leaves those before it with the backends that
// they had.
func TestRetargetOfProxiesUndone(t *testing.T) {
	e, b := openFake(t)
	e.proxies = newProxies(&hostnet.Namespace{}, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { require.NoError(t, e.proxies.closeAll()) })
	publish(t, e, "127.0.0.1:18080->172.30.0.2:80", "127.0.0.1:18081->172.30.0.2:81")
	first := e.proxies.open[portset.Frontend{Proto: nat.TCP, AddrPort: netip.MustParseAddrPort("127.0.0.1:18080")}]
	second := e.proxies.open[portset.Frontend{Proto: nat.TCP, AddrPort: netip.MustParseAddrPort("127.0.0.1:18081")}]
	require.NoError(t, second.Close())
	before := b.kernel.Dump()

	_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, mapAll(t, "127.0.0.1:18080->172.30.0.3:80", "127.0.0.1:18081->172.30.0.3:81")...)
	require.ErrorIs(t, err, proxy.ErrClosed)
	require.Equal(t, before, b.kernel.Dump())
	require.Equal(t, "172.30.0.2:80", first.BackendAddr().String())
	require.Equal(t, []string{"127.0.0.1:18080-18081->172.30.0.2:80-81"}, publishedBy(e))
}
