// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package eval evaluates one packet at one hook against the rules of all tables.
//
// Each rule matches, does not match, or cannot be known: then both are followed. What comes
// out is every end that the packet may meet, with what each depends on.
//
// Values are for one goroutine at a time.
package eval
