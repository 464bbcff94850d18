// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package addrmap has maps by addresses, of which there may be very many: that of an IPv4
// address has four bytes, where a netip.Addr has 24.
package addrmap
