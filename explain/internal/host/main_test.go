// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// TestMain puts the tests into namespaces of their own.
func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// open opens a namespace for a test.
func open(t *testing.T, ns *lab.NS) *Host {
	t.Helper()
	f, err := os.Open(ns.Path())
	require.NoError(t, err)
	h, err := Open(int(f.Fd()))
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, h.Close())
		require.NoError(t, f.Close())
	})
	return h
}

// batch runs commands of ip(8), one a line.
func batch(t *testing.T, ns *lab.NS, lines string) {
	t.Helper()
	labtest.ExecInput(t, ns, lines, labtest.Tool(t, "ip"), "-batch", "-")
}

// addVeth makes a pair of interfaces, one of them in the namespace of a file.
func addVeth(name, peerName string, peer *os.File) error {
	return netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peerName, PeerNamespace: netlink.NsFd(int(peer.Fd())),
	})
}
