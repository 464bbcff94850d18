// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// The demonstration works, and changes nothing in the namespace in which it runs.
func TestDemo(t *testing.T) {
	ns := labtest.NewNS(t, "nowhere")
	before := takeSnapshot(t, ns)
	out := succeed(t, ns, "demo")
	require.Contains(t, out, "all of it worked")
	require.Contains(t, out, "8080->172.30.0.2:80")
	before.unchanged(t, ns)
}

// A user without any privilege sees the same.
func TestDemoWithoutRoot(t *testing.T) {
	requireUsers(t)
	ns := labtest.NewNS(t, "nowhere")
	before := takeSnapshot(t, ns)
	r := labtest.Run(t, ns, programForAll(t)(65534, "demo"))
	require.Zero(t, r.Code, r.Stderr)
	require.Contains(t, r.Stdout, "all of it worked")
	before.unchanged(t, ns)
}

// Without privilege and user namespaces, it says so in one line.
func TestDemoWithoutNamespaces(t *testing.T) {
	ns := labtest.NewNS(t, "nowhere")
	demo := bare(t, "demo")
	cmd := command(t, "unshare", "--user", "--map-root-user", "sh", "-c",
		`echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --bounding-set -sys_admin "$0" demo`, demo.Path)
	r := labtest.Run(t, ns, cmd)
	require.Equal(t, 5, r.Code, r.Stderr)
	require.Empty(t, r.Stdout)
	require.Equal(t, "nftnat: create user namespace: no space left on device"+
		" (run it as root, or allow users to create user namespaces)\n", r.Stderr)
}
