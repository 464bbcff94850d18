// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package rivals finds the ports that other tables of nftables translate, and that nobody
// holds by a socket: those of a rule by hand, of iptables-nft, or of a container runtime
// without userland proxies.
//
// A [Reader] reads the base chains of type nat at prerouting and output that are not the caller's,
// and the chains they jump to, and keeps for which packets each rule translates the
// destination. A rule that it cannot read says nothing: what it reports is there, and what it
// does not report may be there.
//
// Values are for one goroutine at a time.
package rivals
