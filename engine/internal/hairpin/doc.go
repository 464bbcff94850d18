// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package hairpin gives bridge ports hairpin mode while published backends are behind
// them.
//
// A bridge does not send a frame out of the port that it came in by, unless the port has
// hairpin mode. Where bridged frames pass netfilter's IP hooks (bridge-nf-call-…), a
// backend that connects to its own frontend is translated while its frame is being
// bridged, and the frame has to go back to where it came from. So the port gets the mode
// with the first published backend behind it, and loses it with the last.
//
// What a [Controller] has switched is recorded in the table, so that the next engine can
// put it back. It has no lock: its caller holds one for each call.
package hairpin
