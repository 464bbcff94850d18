// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package xt reads what iptables leaves in the kernel: the matches and targets in its rules, the
// tables of iptables-legacy, and the sets of ipset and lists of recent that they ask.
//
// A [Match] or [Target] is the value of a blob of the kernel, and prints itself as `iptables -S`
// does. One that is not read, or malformed, is an [Unknown].
//
// [LegacyTables] reads only tables that exist: to ask the kernel for another one makes it.
//
// Values are for one goroutine at a time.
package xt
