// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// TurnOn turns on again what others have turned off, by whichever setting, and looks at
// nothing while nothing changes.
func TestForwardingNotices(t *testing.T) {
	host := labtest.NewNS(t, "forwarding")
	labtest.Exec(t, host, "ip", "link", "add", "d0", "type", "bridge")
	labtest.Exec(t, host, "ip", "addr", "add", "192.0.2.1/24", "dev", "d0")
	ns := namespaceOf(t, host)
	routes, err := OpenRoutes(ns)
	require.NoError(t, err)
	defer routes.Close()
	looks := 0
	f := &Forwarding{Sysctls: Sysctls{Namespace: ns}, Interfaces: func() ([]Interface, error) {
		looks++
		return routes.Interfaces()
	}}
	require.NoError(t, f.Watch())
	defer func() { require.NoError(t, f.Close()) }()
	needs := ForwardingNeeds{IPv4: true, IPv6: true, Links4: []string{"d0"}, Links6: []string{"d0"}}
	turnOn := func() []Setting {
		t.Helper()
		changed, _, err := f.TurnOn(needs)
		require.NoError(t, err)
		missing, err := f.Missing(needs)
		require.NoError(t, err)
		require.Empty(t, missing)
		return changed
	}
	require.NotEmpty(t, turnOn())
	for _, name := range []string{forwarding4, conf4 + "/d0/" + single4, forwarding6} {
		require.NoError(t, ns.Do(func() error { return f.Sysctls.Write(name, "0") }))
		require.NotEmpty(t, turnOn(), name)
	}
	labtest.Exec(t, host, "sysctl", "-qw", "net.ipv4.conf.default.forwarding=0")
	labtest.Exec(t, host, "ip", "link", "add", "d1", "type", "bridge")
	labtest.Exec(t, host, "ip", "addr", "add", "198.51.100.1/24", "dev", "d1")
	require.Equal(t, []Setting{{conf4 + "/d1/" + single4, "0", "1"}}, turnOn())

	turnOn() // what it has written itself is noticed as well
	looks = 0
	for range 3 {
		_, _, err := f.TurnOn(needs)
		require.NoError(t, err)
	}
	require.Zero(t, looks)
}
