// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLeads(t *testing.T) {
	require.Equal(t, "cgroup 10", linkOf("pos:\t0\nlink_type:\tcgroup\nlink_id:\t7\ncgroup_id:\t1\nattach_type:\t10\n"))
	require.Equal(t, "netns 36", linkOf("link_type:\tnetns\nlink_id:\t8\nnetns_ino:\t4026532385\nattach_type:\t36\n"))
	var h Host
	require.False(t, h.LeadsLocalhost(os.Getpid(), "host.test"))
	require.Nil(t, h.LeadsPorts(os.Getpid(), "host.test"))
	require.False(t, h.LeadsLocalhost(0, "no such program"))
}
