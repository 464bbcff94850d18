// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package keys_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/nat"
)

func TestFloatItem(t *testing.T) {
	for text, key := range map[string]string{
		"192.0.2.100":        "desired/group/edge/float/192.0.2.100",
		"2001:db8::100":      "desired/group/edge/float/2001-db8--100",
		"2001:db8:1:2::":     "desired/group/edge/float/2001-db8-1-2--",
		"fd00:1:2:3:4:5:6:7": "desired/group/edge/float/fd00-1-2-3-4-5-6-7",
	} {
		a := netip.MustParseAddr(text)
		i := keys.FloatItem(keys.OfGroup("edge"), a)
		require.Equal(t, key, i.Key())
		back, err := keys.ParseItem(key)
		require.NoError(t, err)
		require.Equal(t, i, back)
		got, err := keys.FloatAddr(back)
		require.NoError(t, err)
		require.Equal(t, a, got)
	}
	for _, bad := range []string{"", "x", "192.0.2", "127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "fe80::1", "fe80::1%eth0", "255.255.255.255", "192.0.2.1/24"} {
		_, err := keys.ParseFloat(bad)
		require.ErrorIs(t, err, nat.ErrInvalid, bad)
	}
	a, err := keys.ParseFloat("::ffff:192.0.2.1")
	require.NoError(t, err)
	require.Equal(t, "192.0.2.1", a.String())
}

func TestFloatValues(t *testing.T) {
	dev, err := keys.ParseDevice(keys.FormatDevice("eth0.7"))
	require.NoError(t, err)
	require.Equal(t, "eth0.7", dev)
	for _, bad := range []string{"", "eth0", "dev: ", "dev: a/b", "dev: 0123456789abcdef", "dev: eth0\nttl: 5"} {
		_, err := keys.ParseDevice(bad)
		require.ErrorIs(t, err, nat.ErrInvalid, bad)
	}
	for _, h := range []keys.Holder{{Host: "web1"}, {Host: "web1", Serving: true}} {
		got, err := keys.ParseHolder(h.String())
		require.NoError(t, err)
		require.Equal(t, h, got)
	}
	for _, bad := range []string{"", "web1", "web1 ", " serving", "web1 other"} {
		_, err := keys.ParseHolder(bad)
		require.ErrorIs(t, err, nat.ErrInvalid, bad)
	}
	e := keys.Epoch{Number: 7, Host: "web1", Since: time.Date(2026, 11, 30, 16, 0, 0, 0, time.UTC)}
	require.Equal(t, "7 web1 2026-11-30T16:00:00Z", e.String())
	got, err := keys.ParseEpoch(e.String())
	require.NoError(t, err)
	require.Equal(t, e, got)
	for _, bad := range []string{"", "7", "x web1 2026-11-30T16:00:00Z", "7 web1 now"} {
		_, err := keys.ParseEpoch(bad)
		require.ErrorIs(t, err, nat.ErrInvalid, bad)
	}
}
