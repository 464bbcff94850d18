// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package migrate finds what other programs publish, as mappings that nftnat can publish in
// their place, and removes their rules when it does.
//
// [Read] reads what Docker, CNI plugins, netavark, iptables, nftables or miniupnpd have
// published: over netlink, from their sockets and files, or from a file that was saved. It runs
// no program and changes nothing. What a mapping cannot do is left out, with the reason. [Remove]
// deletes their rules that mappings have replaced.
//
// Functions keep nothing between calls and may be called by several goroutines at once.
package migrate
