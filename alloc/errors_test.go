// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestErrors(t *testing.T) {
	a := newAddrs(t, "192.0.2.0/30")
	lease(t, a, 2)
	p := newPorts(t, 60000, 60001)
	for _, port := range []uint16{60000, 60001} {
		require.NoError(t, p.Reserve(netip.AddrPortFrom(anyIPv4(), port)))
	}
	_, exhausted := a.Next()
	_, none := p.Next(anyIPv4())
	_, noRun := p.NextRun(anyIPv4(), 2)
	_, tooLong := p.NextRun(anyIPv4(), 3)
	web := netip.MustParseAddrPort("192.0.2.1:60001")
	for _, tt := range []struct {
		err, is error
		text    string
	}{
		{exhausted, ErrExhausted, "lease from 192.0.2.0/30: exhausted"},
		{a.Reserve(addr("192.0.2.1")), ErrInUse, "reserve 192.0.2.1 in 192.0.2.0/30: in use"},
		{a.Reserve(addr("192.0.2.0")), ErrReserved, "reserve 192.0.2.0 in 192.0.2.0/30: reserved"},
		{a.Reserve(netip.Addr{}), ErrRange, "reserve invalid IP in 192.0.2.0/30: out of range"},
		{none, ErrExhausted, "choose port of 60000-60001 for 0.0.0.0: exhausted"},
		{noRun, ErrExhausted, "choose 2 ports of 60000-60001 for 0.0.0.0: exhausted"},
		{tooLong, ErrRange, "choose 3 ports of 60000-60001 for 0.0.0.0: out of range"},
		{p.Reserve(web), ErrInUse, "reserve 192.0.2.1:60001: in use by 0.0.0.0:60001"},
		{p.ReserveRun(web, 9), ErrInUse, "reserve 9 ports from 192.0.2.1:60001 on: in use by 0.0.0.0:60001"},
	} {
		require.ErrorIs(t, tt.err, tt.is)
		require.EqualError(t, tt.err, tt.text)
	}
	var inUse *InUseError
	require.ErrorAs(t, p.Reserve(web), &inUse)
	require.Equal(t, netip.MustParseAddrPort("0.0.0.0:60001"), inUse.Have)
}
