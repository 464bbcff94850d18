// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

func TestParseProto(t *testing.T) {
	for _, p := range []nat.Proto{nat.TCP, nat.UDP} {
		got, err := nat.ParseProto(p.String())
		require.NoError(t, err)
		require.Equal(t, p, got)
	}
	require.EqualValues(t, 6, nat.TCP)
	require.EqualValues(t, 17, nat.UDP)
	for _, in := range []string{"", "sctp", "TCP", "udp ", "6", "Proto(132)"} {
		got, err := nat.ParseProto(in)
		require.ErrorIs(t, err, nat.ErrInvalid, "%q", in)
		require.Zero(t, got)
	}
	_, err := nat.ParseProto("sctp")
	require.EqualError(t, err, `unknown protocol "sctp": tcp or udp`)
}

func TestProtoText(t *testing.T) {
	b, err := json.Marshal(map[nat.Proto]nat.Proto{nat.TCP: nat.UDP})
	require.NoError(t, err)
	require.JSONEq(t, `{"tcp":"udp"}`, string(b))

	var m map[nat.Proto]nat.Proto
	require.NoError(t, json.Unmarshal(b, &m))
	require.Equal(t, map[nat.Proto]nat.Proto{nat.TCP: nat.UDP}, m)

	p := nat.UDP
	require.ErrorIs(t, p.UnmarshalText([]byte("icmp")), nat.ErrInvalid)
	require.Equal(t, nat.UDP, p, "left alone on error")

	for _, bad := range []nat.Proto{0, 132} {
		_, err = bad.MarshalText()
		require.ErrorIs(t, err, nat.ErrInvalid)
	}
	require.Equal(t, "Proto(132)", nat.Proto(132).String())
}
