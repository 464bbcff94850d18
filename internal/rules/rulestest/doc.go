// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package rulestest has rulesets of other programs for tests, as the kernel has listed them, so that
// nothing of them takes privilege.
//
// [Open] gives a reader of one. They were made by running the programs, or from what
// these write, by the scripts in testdata/make: `go test -update ./internal/rules/rulestest`. Numbers in them are in
// little-endian order.
package rulestest
