// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"github.com/nftnat/nftnat/engine/internal/hairpin"
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

// hairpinElements are the elements of records.
func hairpinElements(records []hairpin.Record) []nft.Element {
	var es []nft.Element
	for _, r := range records {
		es = append(es, nft.Element{Set: hairpinSet(r.Backend.Is4()), Key: nft.AddrKey(r.Backend), Comment: r.Port})
	}
	return es
}

// hairpinRecord reads a record back. ok is false if no engine can have made it.
func hairpinRecord(el nft.Element) (r hairpin.Record, ok bool) {
	if !isHairpinSet(el.Set) {
		return hairpin.Record{}, false
	}
	backend, ok := el.Key.Addr()
	return hairpin.Record{Backend: backend, Port: el.Comment}, ok && hairpin.Recordable(el.Comment)
}
