// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package packets has sets of the first packets of connections, by what a published port can
// ask for: family, protocol, destination, source and the interface that they come in by.
//
// A [Box] is a product of ranges. A [Region] is what is left of a set while rules take their
// packets out of it, one after another; it tells of each piece what is not known about it, and
// what has marked it.
//
// Values are for one goroutine at a time.
package packets
