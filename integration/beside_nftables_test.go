// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// besideOurs are the lines for nftnat in the page's /etc/nftables.conf.
var besideOurs = regexp.MustCompile(`(?m)^.*# nftnat: .*\n`)

// besideHandle is the handle of the table, which a clean end changes.
var besideHandle = regexp.MustCompile(`^table inet nftnat \{ # handle \d+`)

const nftablesConf = "/etc/nftables.conf"

// TestBesideNftables checks what docs/beside.md says about nftables.service, with its lines
// and with Debian's file.
func TestBesideNftables(t *testing.T) {
	h := newBesideHost(t, "nftables", "nft")
	daemon := h.publish()
	table := h.table()
	debian := h.machine.Exec("cat", nftablesConf)
	require.Contains(t, debian, "\nflush ruleset\n")
	for _, verb := range []string{"start", "reload", "restart", "stop", "start"} {
		h.shell("systemctl " + verb + " nftables")
		require.Equal(t, table, h.table(), "after systemctl %s nftables", verb)
		h.allOpen()
	}

	conf := h.text("nftables conf")
	h.machine.Write(nftablesConf, besideOurs.ReplaceAllString(conf, ""), 0o755)
	h.shell("systemctl reload nftables")
	h.onlyOpen(pathLocal)
	h.machine.Write(nftablesConf, conf, 0o755)
	h.shell("systemctl reload nftables")
	h.allOpen()
	daemon = h.restart(daemon)
	h.allOpen()
	require.Equal(t, besideHandle.ReplaceAllString(table, ""), besideHandle.ReplaceAllString(h.table(), ""))
	require.Zero(t, h.testbed.status(t).Table.Repaired)

	// A table without an owner is flushed, and repaired.
	daemon = h.restart(daemon, "--no-owner")
	for i, verb := range []string{"reload", "stop", "start"} {
		h.shell("systemctl " + verb + " nftables")
		await(t, "the daemon to repair", func() bool { return h.testbed.status(t).Table.Repaired == i+1 })
		h.allOpen()
	}
	// Without a daemon nothing is repaired.
	require.NoError(t, daemon.Signal(unix.SIGTERM))
	require.Zero(t, daemon.Wait())
	h.shell("systemctl reload nftables")
	h.onlyOpen(pathOut)
}

// TestBesideSavedRuleset checks what docs/beside.md says about rulesets that nft list ruleset saved.
func TestBesideSavedRuleset(t *testing.T) {
	h := newBesideHost(t, "saved", "nft")
	daemon := h.publish()
	h.shell("systemctl start nftables")
	const all = `(echo "flush ruleset"; nft list ruleset) > ` + nftablesConf
	boot := func() labtest.Result {
		h.shell("systemctl stop nftables; nft flush ruleset")
		return h.machine.Run("systemctl", "start", "nftables")
	}

	// Saved while a daemon owns the table: it cannot be loaded until the daemon ends.
	table := h.table()
	h.shell(all)
	r := h.machine.Run("nft", "-f", nftablesConf)
	require.NotZero(t, r.Code)
	require.Contains(t, r.Stderr, "Operation not permitted")
	require.Equal(t, table, h.table())
	require.Contains(t, h.machine.Exec("nft", "list", "tables"), "table inet filter")

	// Loaded without nftnat's table, by hand and by the unit.
	h.recipe("saved load")
	h.allOpen()
	drop := "/etc/systemd/system/nftables.service.d"
	h.shell("mkdir -p " + drop)
	h.machine.Write(drop+"/nftnat.conf", h.text("saved unit"), 0o644)
	h.shell("systemctl daemon-reload; systemctl restart nftables; systemctl reload nftables")
	require.Equal(t, table, h.table())
	require.Contains(t, h.machine.Exec("nft", "list", "tables"), "table inet filter")
	h.allOpen()
	h.shell("rm -r " + drop + "; systemctl daemon-reload")

	// Saved without nftnat's table it can always be loaded.
	h.recipe("saved tables")
	saved := h.machine.Exec("cat", nftablesConf)
	require.Contains(t, saved, "table inet filter")
	require.NotContains(t, saved, "nftnat")
	require.Zero(t, boot().Code)
	h.allOpen()

	// Saved after the daemon was killed.
	daemon.Kill()
	h.shell(all)
	const filter = "table inet filter\n"
	if noFlags.MatchString(h.machine.Exec("cat", nftablesConf)) {
		require.NotZero(t, boot().Code)
		require.Empty(t, h.machine.Exec("nft", "list", "tables"), "not even the administrator's own rules are there")
		h.recipe("saved load")
		require.Equal(t, filter, h.machine.Exec("nft", "list", "tables"))
	}
	h.recipe("saved tables")
	require.Zero(t, boot().Code)
	require.Equal(t, filter, h.machine.Exec("nft", "list", "tables"))

	// Saved after the daemon has ended.
	daemon = h.publish()
	require.NoError(t, daemon.Signal(unix.SIGTERM))
	require.Zero(t, daemon.Wait())
	h.shell(all)
	require.Zero(t, boot().Code)
	require.Equal(t, filter+"table inet nftnat\n", h.machine.Exec("nft", "list", "tables"))
	h.onlyOpen(pathIn4, pathIn6, pathHairpin, pathOut)
}
