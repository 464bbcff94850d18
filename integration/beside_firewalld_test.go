// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// startFirewalld starts firewalld and waits until it answers: for systemd it has started
// when it has its name on the bus, which is before it loads its rules.
const startFirewalld = "systemctl start firewalld; firewall-cmd --state"

// TestBesideFirewalld checks what docs/beside.md says about firewalld, with its lines.
func TestBesideFirewalld(t *testing.T) {
	h := newBesideHost(t, "firewalld", "firewall-cmd")
	daemon := h.publish()
	h.allOpen()
	h.shell(startFirewalld)
	// By default it accepts translated connections, whichever program translated them.
	h.onlyOpen(pathLocal, pathIn4, pathIn6, pathHairpin)
	h.shell("firewall-cmd --set-default-zone=drop")
	h.onlyOpen(pathLocal, pathIn4, pathIn6, pathHairpin)
	h.shell("firewall-cmd --set-default-zone=public")

	h.recipe("firewalld proxies")
	h.onlyOpen(pathLocal, pathIn4, pathIn6, pathHairpin, pathProxied)
	h.recipe("firewalld way out")
	h.allOpen()
	h.restart(daemon)
	table := h.table() // a clean end and a start recreate it
	h.allOpen()
	h.recipe("firewalld undo")
	h.onlyOpen(pathLocal, pathIn4, pathIn6, pathHairpin)

	h.shell("firewall-cmd --panic-on")
	h.onlyOpen()
	h.shell("firewall-cmd --panic-off")
	h.shell("systemctl stop firewalld")
	h.allOpen()
	require.Equal(t, table, h.table(), "firewalld leaves the table alone")

	// Each stops the other, and nftables.service flushes the ruleset when it stops.
	h.shell("systemctl start nftables; " + startFirewalld)
	require.Equal(t, "inactive", h.machine.Property("nftables", "ActiveState"))
	require.Equal(t, table, h.table(), "a table that is owned is not flushed")
	h.onlyOpen(pathLocal, pathIn4, pathIn6, pathHairpin)
	require.Zero(t, h.testbed.status(t).Table.Repaired)
	require.Contains(t, strings.TrimSpace(h.machine.Exec("nft", "list", "tables")), "table inet firewalld")
}
