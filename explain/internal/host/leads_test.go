// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestIsConnectLink(t *testing.T) {
	require.True(t, isConnectLink("pos:\t0\nlink_type:\tcgroup\nlink_id:\t7\ncgroup_id:\t1\nattach_type:\t10\n"))
	require.False(t, isConnectLink("link_type:\tcgroup\nattach_type:\t11\n"))
	require.False(t, isConnectLink("link_type:\tnetns\nattach_type:\t10\n"))
	require.False(t, hasConnectLink(os.Getpid()))
	require.False(t, (&Host{}).LeadsLocalhost(0, "no such program"))
}
