// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"time"

	"github.com/nftnat/nftnat/api"
)

// gateway writes the leases and refusals of the gateway.
func (w *writer) gateway(v *view) {
	g := v.gateway
	switch {
	case g == nil && v.absent == "":
		return
	case g == nil:
		w.raw(`<section aria-labelledby="h-gateway"><h2 id="h-gateway">Gateway</h2><p class="bad">The gateway does not answer: `)
		w.short(v.absent, shownText)
		w.raw(`.</p></section>`)
		return
	}
	w.raw(`<section aria-labelledby="h-leases"><h2 id="h-leases">Leases of the gateway</h2>`)
	for _, l := range g.Warnings[:min(len(g.Warnings), maxFindings)] {
		w.raw(`<p class="bad">`)
		w.short(l, shownText)
		w.raw(`</p>`)
	}
	if len(g.Leases) == 0 {
		w.raw(`<p class="dim">No client has one.</p>`)
	} else {
		w.raw(`<table class="leases"><thead><tr><th scope="col">Port<th scope="col">Client<th scope="col">By<th scope="col">Ends</tr></thead><tbody>`)
		for i := range g.Leases {
			if i == maxLeases {
				w.raw(`<tr><td colspan="4" class="dim">and `)
				w.number(int64(len(g.Leases) - i))
				w.raw(` more: they are among the published ports</tr>`)
				break
			}
			w.lease(&g.Leases[i])
		}
		w.raw(`</tbody></table>`)
	}
	w.raw(`</section><section aria-labelledby="h-refusals"><h2 id="h-refusals">What the gateway refused</h2>`)
	if len(g.Refusals) == 0 {
		w.raw(`<p class="dim">Nothing.</p></section>`)
		return
	}
	w.raw(`<table class="refusals"><thead><tr><th scope="col">Last<th scope="col">Client<th scope="col">By<th scope="col">Reason<th scope="col" class="n">Times</tr></thead><tbody>`)
	for i := range g.Refusals[:min(len(g.Refusals), maxRefusals)] {
		r := &g.Refusals[i]
		w.raw(`<tr><td>`)
		w.clock(r.Time)
		w.raw(`<td>`)
		w.short(r.Client, shownName)
		w.raw(`<td>`)
		w.raw(protocolText(r.Kind))
		w.raw(`<td>`)
		w.short(r.Reason, shownText)
		if r.Request != "" {
			w.raw(` <bdi class="dim">`)
			w.short(r.Request, 2*shownName)
			w.raw(`</bdi>`)
		}
		w.raw(`<td class="n">`)
		w.number(int64(r.Count))
		w.raw(`</tr>`)
	}
	w.raw(`</tbody></table></section>`)
}

const (
	// maxLeases and maxRefusals are how many are shown.
	maxLeases   = 1000
	maxRefusals = 100
)

func (w *writer) lease(l *api.GatewayLease) {
	w.raw(`<tr><th scope="row">`)
	w.short(l.Proto, 8)
	w.raw(` `)
	w.number(int64(l.External))
	w.raw(`<td>`)
	w.short(l.Client, shownName)
	w.raw(`:`)
	w.number(int64(l.Internal))
	w.raw(`<td><b>` + protocolText(l.Kind) + `</b>`)
	if l.Description != "" {
		w.raw(` <bdi>`)
		w.short(l.Description, shownName)
		w.raw(`</bdi>`)
	}
	w.raw(`<td>`)
	if l.Expires == nil {
		w.expiry(time.Time{})
	} else {
		w.expiry(*l.Expires)
	}
	w.raw(`</tr>`)
}

// protocolText is the protocol by which a client has asked.
func protocolText(kind string) string {
	switch kind {
	case "pmp":
		return "NAT-PMP"
	case "pcp":
		return "PCP"
	case "igd":
		return "UPnP IGD"
	}
	return "other"
}
