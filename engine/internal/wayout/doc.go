// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package wayout decides by which frontend a packet leaves that a backend sends from a
// published port. Peers then see the address and the port by which they reach the backend,
// all of them the same.
//
// A backend leaves by a frontend of its own and by no other, so that it cannot take the
// packets for another mapping. The package asks no kernel.
package wayout
