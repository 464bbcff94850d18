// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package segment finds the segments: the prefixes on whose link a backend lies. A client
// on the same segment would get the backend's answer directly, from an address that it did
// not send to; the rules masquerade its flows (hairpin). A declared network is a segment
// too, whatever the routing table says of it. Others exist as long as a port is published
// to a backend on them.
//
// Segments never overlap. The kernel refuses some that do and, asked to delete one, may
// delete another that has its first address (nft_pipapo_deactivate): a prefix within
// another is left out, and a wider one takes the place of those within it.
package segment
