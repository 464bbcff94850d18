// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package rules reads the rules of all tables of a network namespace, of whatever program,
// as values.
//
// A [Ruleset] has the tables, chains and rules of nftables as the kernel lists them, with the
// matches and targets of iptables-nft in them. A rule is a list of expressions ([Expr]); one
// that this package does not know is an [Unknown], never left out. Elements of sets are not
// read: a set is asked for one key at a time. Tables of iptables-legacy are the same values
// with Legacy set.
//
// Values are for one goroutine at a time.
package rules
