// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"time"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nft"
)

// EntryElement returns the element of an entry. Its time-out begins now.
func EntryElement(e portset.Entry, now time.Time) nft.Element { return PortElement(e.Port, now) }

// NextElement returns the element of a range in the second map; ok is false if there is no such
// map.
func NextElement(e portset.Entry, now time.Time) (el nft.Element, ok bool) { return el, false }
