// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"

	"github.com/nftnat/nftnat/nft"
)

// hairpinSet is the name of the set of records of a family: the addresses of backends,
// each with the name of the bridge port that was given hairpin mode for it as its
// comment.
func hairpinSet(is4 bool) string {
	if is4 {
		return "hairpin4"
	}
	return "hairpin6"
}

func isHairpinSet(name string) bool { return name == hairpinSet(true) || name == hairpinSet(false) }

func recordElement(backend netip.Addr, port string) nft.Element {
	return nft.Element{Set: hairpinSet(backend.Is4()), Key: nft.AddrKey(backend), Comment: port}
}

// hairpinRecord reads a record back. ok is false if no engine can have made it.
func hairpinRecord(el nft.Element) (backend netip.Addr, port string, ok bool) {
	if !isHairpinSet(el.Set) {
		return netip.Addr{}, "", false
	}
	backend, ok = el.Key.Addr()
	return backend, el.Comment, ok && recordable(el.Comment)
}
