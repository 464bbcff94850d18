// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package nft holds nftables rulesets as values and puts them into the kernel over
// netlink.
//
// A [Table] is a plain value: maps, sets and chains of rules, which are lists of
// statements. Each statement prints itself as nft(8) lists it and lowers itself to
// the kernel's bytecode, so that Table.String is the documentation of a ruleset, its dry
// run, and the output of `nft -s list table` once it is loaded. There are only the
// statements that port publishing needs.
//
// A [Conn] replaces a table with its elements (Replace), repairs it in place after others
// changed it (Repair), changes elements (Update), reads them (Elements) and tells how the
// kernel's table differs from the value (Drift). Each [Change] is one transaction, whole or
// nothing, whatever its size. An error names the element or rule that the kernel refused.
//
// Only the named table is changed. Closing a Conn leaves it as it is.
//
// # Be aware
//
//   - Tables are of the inet family only.
//   - Names and comments are limited to those that nft(8) can list and load again.
//   - The kernel does not tell which of the elements in one message it refused before
//     Linux 5.18; the error then says how many there were.
//   - There are keys for ports, addresses, addresses with ports, both behind an interface name,
//     interface names, marks, prefixes, pairs and segments. Elements of sets of other types can
//     neither be added nor read.
//   - Prefixes of one set must not overlap, nor must pairs or the segments of a link; see
//     [PrefixKey] and [PairKey].
//   - While elements expire, the kernel may list a large map incompletely, without a word.
//     Elements notices, and reads again. Up to Linux 6.12, which does not count elements, it
//     always reads maps with time-outs twice if they need more than one datagram.
//   - A read is consistent if no ruleset of the namespace has changed meanwhile, or none of
//     the changes was of this table. Elements gives up with ErrInterrupted if it cannot tell.
package nft
