// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package table keeps one nftables table of the kernel: it loads it, claims it, changes
// it, repairs it in place or recreates it, and watches what others do to it. It knows
// rules and elements; what the elements mean is its caller's business.
//
// Nothing in it locks. The engine calls the methods of a [Table] one at a time; those of
// a [Watcher] are for the goroutine that runs it, and lock through the functions that they are
// given.
package table
