// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

func TestExchange(t *testing.T) {
	e, b := openFake(t)
	_, err := e.Apply(t.Context(), mapAll(t, "80-89->172.30.0.2:80-89", "53->172.30.0.2:53/udp", "443->172.30.0.2:443")...)
	require.NoError(t, err)
	changes, err := e.Exchange(t.Context(), nat.Exchange{
		Remove:  mapAll(t, "84-89->172.30.0.2:84-89", "53->172.30.0.2:53/udp"),
		Publish: mapAll(t, "88-91->172.30.0.3:88-91", "443->172.30.0.2:443", "53->172.30.0.3:53/udp"),
	})
	require.NoError(t, err)
	require.Equal(t, []string{
		"~ 88-89->172.30.0.2:88-89 => 88-89->172.30.0.3:88-89",
		"~ 53->172.30.0.2:53/udp => 53->172.30.0.3:53/udp",
		"- 84-87->172.30.0.2:84-87", "+ 90-91->172.30.0.3:90-91",
	}, linesOf(changes))
	requireConsistent(t, b, e)
	requirePublished := func() {
		t.Helper()
		ms, err := e.Mappings(t.Context())
		require.NoError(t, err)
		require.Equal(t, mapAll(t, "80-83->172.30.0.2:80-83", "88-91->172.30.0.3:88-91", "443->172.30.0.2:443", "53->172.30.0.3:53/udp"), nat.Collapse(ms))
	}
	requirePublished()

	before := b.kernel.Dump()
	taken := &nat.ConflictError{}
	for _, x := range []struct {
		x    nat.Exchange
		want error
	}{
		{nat.Exchange{Remove: mapAll(t, "81->172.30.0.9:81")}, nat.ErrNotFound},
		{nat.Exchange{Remove: mapAll(t, "7->172.30.0.2:7")}, nat.ErrNotFound},
		{nat.Exchange{Publish: mapAll(t, "443->172.30.0.9:443")}, nat.ErrConflict},
		{nat.Exchange{Remove: mapAll(t, "80->172.30.0.2:80"), Publish: mapAll(t, "80-81->172.30.0.9:80-81")}, nat.ErrConflict},
		{nat.Exchange{Publish: mapAll(t, local4+":443->172.30.0.9:443")}, nat.ErrConflict},
		{nat.Exchange{Publish: []nat.Mapping{{Proto: nat.TCP, Backend: mapAll(t, "1->172.30.0.2:1")[0].Backend}}}, nat.ErrInvalid},
	} {
		_, err := e.Exchange(t.Context(), x.x)
		require.ErrorIs(t, err, x.want)
		require.Equal(t, before, b.kernel.Dump(), "nothing has changed")
	}
	_, err = e.Exchange(t.Context(), nat.Exchange{Publish: mapAll(t, "443->172.30.0.9:443")})
	require.ErrorAs(t, err, &taken)
	require.Equal(t, mapAll(t, "443->172.30.0.2:443")[0], taken.Have)

	// A narrower frontend takes the place of a wider one; a name and an expiry are part of it.
	lease := mapAll(t, local4+":443->172.30.0.3:443")[0]
	lease.Name, lease.Expires = "x", time.Now().AddDate(1, 0, 0).Truncate(time.Millisecond).UTC()
	_, err = e.Exchange(t.Context(), nat.Exchange{Remove: mapAll(t, "443->172.30.0.2:443"), Publish: []nat.Mapping{lease}})
	require.NoError(t, err)
	unnamed := lease
	unnamed.Name = ""
	_, err = e.Exchange(t.Context(), nat.Exchange{Remove: []nat.Mapping{unnamed}})
	require.ErrorIs(t, err, nat.ErrNotFound)
	lease.Expires = time.Time{}
	_, err = e.Exchange(t.Context(), nat.Exchange{Remove: []nat.Mapping{lease}, Publish: mapAll(t, "443->172.30.0.2:443")})
	require.NoError(t, err)
	requirePublished()
	requireConsistent(t, b, e)
	changes, err = e.Exchange(t.Context(), nat.Exchange{})
	require.NoError(t, err)
	require.Empty(t, changes)
}
