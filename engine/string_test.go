// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

func TestStrings(t *testing.T) {
	require.Equal(t, "published unpublished expired repaired invalid",
		fmt.Sprint(nat.EventPublished, " ", nat.EventUnpublished, " ", nat.EventExpired, " ", nat.EventRepaired, " ", nat.EventKind(9)))
	require.Equal(t, "off partly on invalid", fmt.Sprint(ForwardingOff, " ", ForwardingPartly, " ", ForwardingOn, " ", ForwardingState(-1)))
}
