// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import "strconv"

// Hold says who has a published port as a socket of this host.
type Hold uint8

const (
	// HoldOwn keeps other programs from using the port. A port that one has is not published.
	HoldOwn Hold = iota
	// HoldShared leaves the port to a program that has it on purpose, such as a container
	// runtime that keeps its ports by a socket that it never serves. The mapping goes before it.
	HoldShared
)

// String returns "own", "shared", or for any other number "Hold(7)".
func (h Hold) String() string {
	switch h {
	case HoldOwn:
		return "own"
	case HoldShared:
		return "shared"
	}
	return "Hold(" + strconv.Itoa(int(h)) + ")"
}

// ParseHold parses "own" or "shared". Other text is an [*InvalidError].
func ParseHold(s string) (Hold, error) {
	for _, h := range []Hold{HoldOwn, HoldShared} {
		if s == h.String() {
			return h, nil
		}
	}
	return 0, &InvalidError{What: "hold", Input: s, Reason: "own or shared"}
}
