// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

// explainPage writes what becomes of a client's packet, and a form to ask for another one.
func (w *writer) explainPage(o *Options, proto, frontend, from, text string, failed bool) {
	subject := "explain"
	if frontend != "" {
		subject += " " + proto + " " + frontend
	}
	w.head(subject+" - "+title(o.Title), "")
	w.raw(`<header><h1>`)
	w.short(subject, shownName)
	w.raw(`</h1><p><a href="/">all published ports</a></p></header><main><form action="/explain">` +
		`<p><label for="proto">Protocol</label> <select id="proto" name="proto"><option>tcp<option`)
	if proto == "udp" {
		w.raw(` selected`)
	}
	w.raw(`>udp</select></p>`)
	field := func(id, label, value, example string) {
		w.raw(`<p><label for="` + id + `">` + label + `</label> <input id="` + id + `" name="` + id + `" placeholder="` + example + `" autocomplete="off" value=`)
		w.attr(value)
		w.raw(`></p>`)
	}
	field("frontend", "Frontend", frontend, "8080")
	field("from", "From", from, "any client")
	w.raw(`<p><button>Explain</button></p></form>`)
	switch {
	case text == "":
	case failed:
		w.raw(`<p class="bad" role="alert">`)
		w.short(text, 10*shownText)
		w.raw(`</p>`)
	default:
		w.raw(`<pre tabindex="0">`)
		w.block(text)
		w.raw(`</pre>`)
	}
	w.raw(`</main></body></html>`)
}
