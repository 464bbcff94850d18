// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBesideUfw checks what docs/beside.md says about ufw, with its lines.
func TestBesideUfw(t *testing.T) {
	h := newBesideHost(t, "ufw", "ufw")
	daemon := h.publish()
	h.allOpen()
	h.shell("ufw --force enable")
	h.onlyOpen(pathLocal)
	// In forwarded packets ufw does not see the frontend's port.
	h.shell("ufw route allow proto tcp to any port 8080")
	h.onlyOpen(pathLocal)
	h.shell("ufw route delete allow proto tcp to any port 8080")

	h.recipe("ufw one port")
	h.onlyOpen(pathLocal, pathIn4, pathHairpin)
	h.recipe("ufw proxies")
	h.onlyOpen(pathLocal, pathIn4, pathHairpin, pathProxied)
	h.recipe("ufw way out")
	h.onlyOpen(pathLocal, pathIn4, pathHairpin, pathProxied, pathOut)
	h.shell("ufw reload")
	h.restart(daemon)
	table := h.table() // a clean end and a start recreate it
	h.onlyOpen(pathLocal, pathIn4, pathHairpin, pathProxied, pathOut)
	h.recipe("ufw undo")
	h.onlyOpen(pathLocal)

	h.recipe("ufw all ports")
	h.onlyOpen(pathLocal, pathIn4, pathIn6, pathHairpin)
	h.recipe("ufw all ports undo")
	h.onlyOpen(pathLocal)

	h.shell("ufw --force disable")
	h.allOpen()
	require.Equal(t, table, h.table(), "ufw leaves the table alone")
	require.Zero(t, h.testbed.status(t).Table.Repaired)
}
