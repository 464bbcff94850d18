// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"strings"
	"testing"
)

// besideJail is a jail with Debian's defaults.
const besideJail = `[sshd]
enabled = false
[web]
enabled = true
backend = polling
filter = web
logpath = /var/log/web.log
port = 8080
`

// TestBesideFail2ban checks what docs/beside.md says about fail2ban, with its lines.
func TestBesideFail2ban(t *testing.T) {
	h := newBesideHost(t, "fail2ban", "fail2ban-client")
	h.publish()
	h.machine.Write("/var/log/web.log", "", 0o644)
	h.machine.Write("/etc/fail2ban/filter.d/web.conf", "[Definition]\nfailregex = ^failed from <HOST>$\n", 0o644)
	h.machine.Write("/etc/fail2ban/jail.local", besideJail, 0o644)
	const ban = "fail2ban-client start; fail2ban-client set web banip 192.0.2.2 2001:db8:1::2"
	h.shell(ban)
	// Its chain is at the input hook, which does not see forwarded packets.
	await(t, "fail2ban to ban", func() bool { return strings.Contains(h.machine.Exec("ip6tables", "-S"), "2001:db8:1::2") })
	h.onlyOpen(pathLocal, pathIn4, pathIn6, pathHairpin, pathOut)
	h.shell("fail2ban-client stop")
	h.allOpen()

	h.machine.Write("/etc/fail2ban/jail.d/nftnat.local", h.text("fail2ban jail"), 0o644)
	h.shell(ban)
	await(t, "fail2ban to ban", func() bool {
		return strings.Contains(h.machine.Exec("nft", "list", "ruleset"), "elements = { 2001:db8:1::2 }")
	})
	h.onlyOpen(pathLocal, pathIn6, pathHairpin, pathOut)
	h.shell("fail2ban-client unban --all")
	h.allOpen()
	h.shell("fail2ban-client stop")
	h.allOpen()
}
