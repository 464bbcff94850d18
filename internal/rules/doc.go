// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package rules reads the rules of all tables of a network namespace, of whatever program,
// as values, and prints them as that program does.
//
// A [Reader] lists the tables, chains and sets of nftables. The rules of a chain are read when they
// are asked for, with the matches and targets of iptables-nft in them. A rule is a list of
// expressions ([Expr]); one that this package does not know is an [Unknown], never left out.
// Elements of sets are not read: a set is asked for one key at a time. Tables of iptables-legacy
// are the same values with Legacy set, and are read by package xt.
//
// A [Printer] prints a rule as `nft list ruleset` or `iptables -S` does.
//
// Values are for one goroutine at a time.
package rules
