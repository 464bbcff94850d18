// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"net/netip"

	"github.com/nftnat/nftnat/engine/internal/hairpin"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/nft"
)

// hairpinHost is what a hairpin.Controller needs of the engine. The controller is called
// with the engine locked.
type hairpinHost struct{ e *core }

func (h hairpinHost) Published(backend netip.Addr) int { return h.e.backends.Of(backend) }

func (h hairpinHost) BridgeOf(backend netip.Addr) (index int, ok bool) {
	r, err := h.e.host.Lookup(backend)
	return r.Bridge, err == nil && r.Bridge != 0
}

func (h hairpinHost) CanRecord() bool { return h.e.table.Present() }

func (h hairpinHost) Record(removed, added []hairpin.Record) error {
	err := h.e.table.UpdateFinally(nft.Change{Delete: schema.HairpinElements(removed), Add: schema.HairpinElements(added)})
	if err != nil {
		err = fmt.Errorf("table %s: %w", h.e.opts.Table, err)
	}
	return err
}
