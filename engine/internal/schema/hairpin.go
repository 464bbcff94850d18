// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"github.com/nftnat/nftnat/engine/internal/hairpin"
	"github.com/nftnat/nftnat/nft"
)

// HairpinElements returns the elements of hairpin records: the address of a backend, and
// the bridge port that was given hairpin mode for it as the comment.
func HairpinElements(records []hairpin.Record) (es []nft.Element) {
	for _, r := range records {
		es = append(es, nft.Element{Set: setHairpin + familyDigit(r.Backend), Key: nft.AddrKey(r.Backend), Comment: r.Port})
	}
	return es
}
