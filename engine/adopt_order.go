// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import "github.com/nftnat/nftnat/nft"

// kindOf is the kind of one map after the other.
type kindOf struct {
	set string
	mapKind
	ok bool // it is a map of mappings
}

// of returns the kind of the map. Elements of one map stand together, so that it is
// looked for once.
func (k *kindOf) of(set string, kinds map[string]mapKind) mapKind {
	if k.set != set {
		k.set = set
		k.mapKind, k.ok = kinds[set]
	}
	return k.mapKind
}

// behindMappings are the elements without those of maps of mappings that come first, as
// they do when a whole table is read. These may be very many, and are no records, notes or
// segments.
func behindMappings(elements []nft.Element) []nft.Element {
	kinds := mapKinds()
	var kind kindOf
	for i := range elements {
		if kind.of(elements[i].Set, kinds); !kind.ok {
			return elements[i:]
		}
	}
	return nil
}
