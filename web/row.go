// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"net/url"
	"strconv"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// row writes a row of the table.
func (w *writer) row(r *row, changes bool) {
	w.raw(`<tr id=`)
	w.attr(r.id)
	w.raw(`><th scope="row">` + r.m.Proto.String() + ` `)
	w.text(r.m.FrontendText())
	w.raw(`<td>`)
	w.text(r.m.BackendText())
	o := ownerOf(r.m.Name)
	w.raw(`<td><b>` + o.text + `</b>`)
	if o.name != "" {
		w.raw(` <bdi>`)
		w.short(o.name, shownName)
		w.raw(`</bdi>`)
	}
	w.options(&r.m)
	w.raw(`<td>`)
	w.expiry(r.m.Expires)
	w.raw(`<td class="n">`)
	w.number(int64(r.flows))
	w.raw(`<td class="n">`)
	w.b = strconv.AppendUint(w.b, r.hits, 10)
	w.raw(`<td>`)
	if r.state != "" {
		w.raw(`<strong>` + r.state + `</strong> `)
	}
	w.explainLink(r.m)
	if changes {
		w.raw(` <button class="rm" data-d=`)
		w.attr(removalPath(r.m))
		w.raw(` aria-label="Remove `)
		w.text(nat.DescribeFrontend(r.m))
		w.raw(`">Remove</button>`)
	}
	w.raw("</tr>\n")
}

// options writes what is unusual about a mapping.
func (w *writer) options(m *nat.Mapping) {
	say := func(text string) { w.raw(` <span class="dim">` + text + `</span>`) }
	if m.ProxyOnly {
		say("proxy only")
	}
	if m.Masquerade {
		say("masquerade")
	}
	if m.Hold == nat.HoldShared {
		say("shared")
	}
	if texts := m.From.Texts(); len(texts) != 0 {
		w.raw(` <span class="dim">from `)
		for i, t := range texts {
			if i == 3 {
				w.raw(" and ")
				w.number(int64(len(texts) - i))
				w.raw(" more")
				break
			}
			if i > 0 {
				w.raw(", ")
			}
			w.text(t)
		}
		w.raw(`</span>`)
	}
}

// expiry writes when something ends. What is left of it is written where the time is known.
func (w *writer) expiry(t time.Time) {
	if t.IsZero() {
		w.raw("never")
		return
	}
	t = t.UTC()
	w.raw(`<time datetime="` + t.Format(time.RFC3339) + `" data-e="` + strconv.FormatInt(t.UnixMilli(), 10) + `">` + t.Format("2006-01-02 15:04") + ` UTC</time>`)
}

// explainLink links to the explanation of a mapping's first port.
func (w *writer) explainLink(m nat.Mapping) {
	m.More = 0
	w.raw(`<a href=`)
	w.attr("/explain?" + url.Values{"proto": {m.Proto.String()}, "frontend": {m.FrontendText()}}.Encode())
	w.raw(` aria-label="explain `)
	w.text(nat.DescribeFrontend(m))
	w.raw(`">explain</a>`)
}

// removalPath is what the script asks for to remove a mapping: only this one.
func removalPath(m nat.Mapping) string {
	return "/v1/mappings/" + m.Proto.String() + "/" + url.PathEscape(m.FrontendText()) + "?" +
		url.Values{"name": {m.Name}, "backend": {m.BackendText()}}.Encode()
}
