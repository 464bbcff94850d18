// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package addrmap has maps by addresses, of which there may be very many. Those of IPv4 are in
// pages of 64, as addresses of a network are next to each other: an address takes no memory of its
// own, and a look-up meets little that the processor does not have in its cache.
package addrmap
