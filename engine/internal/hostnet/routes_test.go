// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"errors"
	"io/fs"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// Routes and the ID are of the namespace that was opened.
func TestRoutes(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1})
	ns, err := OpenNamespace(top.Host.Path())
	require.NoError(t, err)
	r, err := OpenRoutes(ns)
	require.NoError(t, err)
	labtest.Tool(t, "ip")
	labtest.Exec(t, top.Host, "ip", "route", "add", "prohibit", "198.51.100.0/24")
	labtest.Exec(t, top.Host, "ip", "route", "add", "192.168.77.0/24", "via", top.Backend1.V4.String())
	bridge := Route{Kind: Unicast, OnLink: top.Inside4.Masked(), Link: lab.HostBridge}
	for addr, want := range map[string]Route{
		top.Backend1.V4.String(): bridge,
		"127.0.0.1":              {Kind: Local},
		"198.51.100.7":           {Kind: Other},
		"192.168.77.7":           {Kind: Unicast, Link: lab.HostBridge},
	} {
		got, err := r.Lookup(netip.MustParseAddr(addr))
		require.NoError(t, err)
		require.Equal(t, want.OnLink.IsValid(), got.Bridge != 0, addr)
		got.Bridge = 0
		require.Equal(t, want, got, addr)
	}
	own, err := (&Namespace{}).ID()
	require.NoError(t, err)
	there, err := ns.ID()
	require.NoError(t, err)
	require.NotEqual(t, own, there)
	r.Close()
	require.NoError(t, ns.Close())
}

func TestOpenNamespace(t *testing.T) {
	_, err := OpenNamespace("/nosuch")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = OpenNamespace("/dev/null")
	require.ErrorIs(t, err, nat.ErrInvalid)
	require.NoError(t, (&Namespace{}).Close())
}

func TestRouteCache(t *testing.T) {
	kinds := map[string]RouteKind{"192.0.2.1": Local, "172.30.0.255": Broadcast, "198.18.0.1": Other, "172.30.0.2": Unicast}
	asked := 0
	c := NewRouteCache(func(a netip.Addr) (Route, error) {
		asked++
		if a.Is6() {
			return Route{}, errors.New("no luck")
		}
		return Route{Kind: kinds[a.String()]}, nil
	}, nil)
	for text, want := range map[string]string{
		"192.0.2.1:80->172.30.0.2:80":    "",
		"80->172.30.0.3:80":              "", // unreachable, until a route is added
		"192.0.2.2:80->172.30.0.2:80":    "", // absent, until the address comes
		"192.0.2.2:80->192.0.2.2:81":     "frontend and backend have one address, 192.0.2.2",
		"172.30.0.255:80->172.30.0.2:80": "the frontend 172.30.0.255 is a broadcast address",
		"80->192.0.2.1:80":               "the backend 192.0.2.1 is this host itself",
		"80->172.30.0.255:80":            "the backend 172.30.0.255 is a broadcast address",
		"80->198.18.0.1:80":              "the routing table forbids the backend 198.18.0.1",
		"80->[fd00::1]:80":               "no luck",
		"127.0.0.1:80->198.18.0.1:80":    "the routing table forbids the backend 198.18.0.1",
		"0.0.0.0:80->172.30.0.255:80":    "the backend 172.30.0.255 is a broadcast address",
		"[2001:db8::1]:80->[::2]:8080":   "no luck",
	} {
		m := nattest.Mapping(t, text)
		if want == "" {
			require.NoError(t, c.Check(&m), text)
		} else {
			require.ErrorContains(t, c.Check(&m), want, text)
		}
	}
	require.Len(t, c.Routes, 6)
	forbidden := nattest.Mapping(t, "80->198.18.0.1:80")
	c.InNetwork = func(a netip.Addr) bool { return a == forbidden.Backend.Addr() }
	require.NoError(t, c.Check(&forbidden))
	require.Equal(t, map[netip.Addr]bool{netip.MustParseAddr("192.0.2.2"): true}, c.Absent)
	before := asked
	_, err := c.Lookup(netip.MustParseAddr("172.30.0.2"))
	require.NoError(t, err)
	require.Equal(t, before, asked)
}

func TestRouteKindString(t *testing.T) {
	require.Equal(t, "unreachable", Unreachable.String())
	require.Equal(t, "other", Other.String())
	require.Equal(t, "invalid", (Other + 1).String())
}
