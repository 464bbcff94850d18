// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package segment computes the segments: the prefixes that are on link by an interface that
// leads to a published backend. A client on the link that the backend is on would get the
// backend's answer directly, from an address that it did not send to; the rules masquerade
// its flows (hairpin).
//
// Segments are a function of the published backends and of what the host says of them
// ([Facts]), whatever the history. A [State] follows changes of either.
package segment
