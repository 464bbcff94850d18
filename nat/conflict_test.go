// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Where two mappings have the same text and name, the error says what else is different.
func TestConflictErrorDifference(t *testing.T) {
	web, err := ParseMapping("tcp", "8080", "172.17.0.2:80")
	require.NoError(t, err)
	with := func(change func(*Mapping)) Mapping {
		m := web
		change(&m)
		return m
	}
	named := with(func(m *Mapping) { m.Name = "web" })
	unproxied := with(func(m *Mapping) { m.NoProxy = true })
	timed := with(func(m *Mapping) { m.Expires = time.Unix(2e9, 0) })
	shared := with(func(m *Mapping) { m.Hold = HoldShared })
	elsewhere := with(func(m *Mapping) { m.Backend = netip.MustParseAddrPort("172.17.0.3:80") })
	for _, c := range []struct {
		want, have Mapping
		text       string
	}{
		{web, named, ` by "web"`},
		{named, web, " without a name"},
		{unproxied, web, " with a proxy"},
		{web, unproxied, " without a proxy"},
		{timed, web, " without an expiry time"},
		{web, shared, " on a port that it shares"},
		{shared, web, " on a port that it does not share"},
		{elsewhere, web, ""},
		{web, web, ""},
		{Mapping{}, web, ""},
	} {
		require.EqualError(t, &ConflictError{Want: c.want, Have: c.have}, "tcp 8080 is published as 8080->172.17.0.2:80"+c.text)
	}
}

// Ranges are compared where they meet.
func TestConflictErrorOfRanges(t *testing.T) {
	mapping := func(text string, change func(*Mapping)) Mapping {
		m, err := ParseMappingText(text)
		require.NoError(t, err)
		change(&m)
		return m
	}
	plain := func(*Mapping) {}
	for _, c := range []struct {
		want, have Mapping
		text       string
	}{
		{mapping("80-89->172.17.0.2:80-89", plain), mapping("70-89->172.17.0.2:70-89", func(m *Mapping) { m.NoProxy = true }),
			"tcp 70-89 is published as 70-89->172.17.0.2:70-89 without a proxy"},
		{mapping("80->172.17.0.2:80", plain), mapping("70-89->172.17.0.2:70-89", plain), "tcp 70-89 is published as 70-89->172.17.0.2:70-89"},
		{mapping("80-89->172.17.0.2:90-99", plain), mapping("70-89->172.17.0.2:70-89", func(m *Mapping) { m.NoProxy = true }),
			"tcp 70-89 is published as 70-89->172.17.0.2:70-89"},
		{mapping("1080-1089->172.17.0.2:80-89", plain), mapping("70-89->172.17.0.2:70-89", func(m *Mapping) { m.Masquerade = true }),
			"tcp 70-89 is published as 70-89->172.17.0.2:70-89, which leads to the same port of the backend and is masqueraded; both have to be, or neither"},
	} {
		require.EqualError(t, &ConflictError{Want: c.want, Have: c.have}, c.text)
	}
}
