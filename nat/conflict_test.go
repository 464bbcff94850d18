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
		{elsewhere, web, ""},
		{web, web, ""},
		{Mapping{}, web, ""},
	} {
		require.EqualError(t, &ConflictError{Want: c.want, Have: c.have}, "tcp 8080 is published as 8080->172.17.0.2:80"+c.text)
	}
}
