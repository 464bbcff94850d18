// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseProto(t *testing.T) {
	for _, p := range []Proto{TCP, UDP} {
		got, err := ParseProto(p.String())
		require.NoError(t, err)
		require.Equal(t, p, got)
	}
	require.EqualValues(t, 6, TCP)
	require.EqualValues(t, 17, UDP)
	for _, in := range []string{"", "sctp", "TCP", "udp ", "6", "Proto(132)"} {
		got, err := ParseProto(in)
		require.ErrorIs(t, err, ErrInvalid, "%q", in)
		require.Zero(t, got)
	}
	_, err := ParseProto("sctp")
	require.EqualError(t, err, `unknown protocol "sctp": tcp or udp`)
}

func TestProtoText(t *testing.T) {
	b, err := json.Marshal(map[Proto]Proto{TCP: UDP})
	require.NoError(t, err)
	require.JSONEq(t, `{"tcp":"udp"}`, string(b))

	var m map[Proto]Proto
	require.NoError(t, json.Unmarshal(b, &m))
	require.Equal(t, map[Proto]Proto{TCP: UDP}, m)

	p := UDP
	require.ErrorIs(t, p.UnmarshalText([]byte("icmp")), ErrInvalid)
	require.Equal(t, UDP, p, "left alone on error")

	for _, bad := range []Proto{0, 132} {
		_, err = bad.MarshalText()
		require.ErrorIs(t, err, ErrInvalid)
	}
	require.Equal(t, "Proto(132)", Proto(132).String())
}
