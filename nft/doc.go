// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package nft holds nftables rulesets as values and puts them into the kernel over
// netlink.
//
// A [Table] is a plain value: maps, sets and chains of rules, a rule being a list of
// statements. Each statement prints itself as nft(8) lists it and lowers itself to
// the kernel's bytecode, so that Table.String is at once the documentation of a
// ruleset, its dry run, and what `nft -s list table` must answer when it is loaded.
// The set of statements is closed and small: those that port publishing needs.
//
// A [Conn] replaces a whole table with its elements (Replace), puts one right that others
// have changed (Repair), changes elements (Update), reads them back (Elements) and tells how the kernel's table differs from
// the value (Drift). Each change is one transaction: all of it or nothing, whatever
// its size. An error names the element or rule that the kernel refused.
//
// # What stays
//
// Closing a Conn leaves the kernel's tables as they are. Nothing here touches a
// table other than the named one; its name is the caller's to choose and to guard.
//
// # Be aware
//
//   - Tables are of the inet family only.
//   - Names and comments are held to what nft(8) can list and load again.
//   - The kernel does not tell which of the elements in one message it refused before
//     Linux 5.18; the error then says how many there were.
//   - There are keys for ports, addresses, addresses with ports, interface names,
//     prefixes and segments. A set of another type can be made and looked in, but its
//     elements can neither be added nor read.
//   - Prefixes of one set must not overlap, nor must segments; see [PrefixKey] and
//     [SegmentKey].
//   - While elements end, the kernel lists a large map incompletely, and does not say
//     so. Elements notices and reads again: twice at least where the kernel does not
//     count elements (Linux 6.12 and older), if the map has time-outs and needs more
//     than one datagram.
//   - Reading rests on the generation of all rulesets of the namespace: where others
//     change theirs without a pause, Elements gives up with ErrInterrupted.
package nft
