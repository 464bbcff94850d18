// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package chains finds out which packets the rules of other programs send where.
//
// A [Ruleset] is read from the kernel ([Read]) or from the text of iptables-save(8) ([Parse]).
// Its rules are values of one form: which packets they are for, as far as a box of package
// packets can say it, which other conditions they have, and what they do. [Ruleset.Walk] goes
// through the base chains of a hook as the kernel does, the first match first, and returns
// which packets each translation gets.
//
// What is not understood takes no packets away and lets none pass: the packets behind it are
// in doubt. Values are for one goroutine at a time.
package chains
