// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

func TestHold(t *testing.T) {
	for _, h := range []nat.Hold{nat.HoldOwn, nat.HoldShared} {
		got, err := nat.ParseHold(h.String())
		require.NoError(t, err)
		require.Equal(t, h, got)
	}
	require.Equal(t, nat.HoldOwn, nat.Hold(0))
	require.Equal(t, "Hold(7)", nat.Hold(7).String())
	for _, text := range []string{"", "x", "Shared", "shared "} {
		_, err := nat.ParseHold(text)
		require.ErrorIs(t, err, nat.ErrInvalid)
		require.EqualError(t, err, `invalid hold "`+text+`": own or shared`)
	}
}

func TestPublishOptions(t *testing.T) {
	require.NoError(t, nat.PublishOptions{}.Validate())
	require.NoError(t, nat.PublishOptions{Replace: true, Kill: true, IfName: "web"}.Validate())
	require.EqualError(t, nat.PublishOptions{Kill: true}.Validate(), `invalid options "Kill": it is for what Replace replaces`)
	require.EqualError(t, nat.PublishOptions{IfName: "web"}.Validate(), `invalid options "IfName": it is for what Replace replaces`)
	require.EqualError(t, nat.PublishOptions{Replace: true, IfName: "a\n"}.Validate(), `invalid name "a\n": name has a control character at byte 2`)
}
