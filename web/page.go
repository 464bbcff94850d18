// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"crypto/sha256"
	_ "embed" // for the style and the script
	"encoding/base64"
	"strconv"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/explain/report"
)

//go:embed style.css
var style string

//go:embed script.js
var script string

// policy is the Content-Security-Policy of all answers: this style and this script, and nothing else.
func policy() string {
	hash := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return "default-src 'none'; style-src " + hash(style) + "; script-src " + hash(script) +
		"; connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
}

const (
	// shownName and shownText are the most bytes that are shown of a name, and of a text of others.
	shownName = 80
	shownText = 400
)

// head writes the begin of a page. The icon keeps browsers from asking for one.
func (w *writer) head(title, attributes string) {
	w.raw(`<!doctype html><html lang="en"` + attributes + `><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">` +
		`<meta name="color-scheme" content="light dark"><title>`)
	w.text(title)
	w.raw(`</title><link rel="icon" href="data:,"><style>` + style + `</style></head><body>`)
}

// before writes the page as far as its rows.
func (w *writer) before(o *Options, v *view, id string, now time.Time) {
	w.head(title(o.Title), ` data-v="`+id+`" data-now="`+strconv.FormatInt(now.UnixMilli(), 10)+`"`)
	w.raw(`<a class="skip" href="#ports">Skip to the published ports</a><header><h1>nftnat`)
	if o.Title != "" {
		w.raw(` <small>`)
		w.text(o.Title)
		w.raw(`</small>`)
	}
	w.raw(`</h1><p id="live" role="status">As of `)
	w.clock(now)
	w.raw(`</p></header><main>`)
	w.section("sum", "", "", v)
	w.section("wrong", "h-wrong", "What is wrong", v)
	w.section("plot", "h-plot", "Connections", v)
	w.raw(`<section aria-labelledby="h-ports"><div class="bar"><h2 id="h-ports">Published ports</h2>` +
		`<p class="scripted"><label for="filter">Filter</label> <input id="filter" type="search" autocomplete="off" spellcheck="false" placeholder="8080, web, PCP"> <output id="shown" for="filter"></output></p></div>` +
		`<p id="count" class="dim">` + v.part("count") + `</p>` +
		`<table id="ports" tabindex="-1"><thead><tr><th scope="col">Port<th scope="col">Backend<th scope="col">Owner<th scope="col">Ends` +
		`<th scope="col" class="n">Now<th scope="col" class="n">Hits<th scope="col">State</tr></thead><tbody id="rows">`)
}

// after writes the page from its rows on.
func (w *writer) after(o *Options, v *view) {
	w.raw(`</tbody></table><p class="dim">Now: TCP connections and UDP flows, also TCP connections that ended up to two minutes ago. ` +
		`Hits: how many there have been, at least, since this page is served.</p></section><div id="gateway">` + v.part("gateway") + `</div>`)
	if o.Token != "" {
		w.raw(changeForm)
	}
	w.raw(`</main><footer><p><a href="/status.json">status.json</a> <span class="dim">nftnat `)
	w.short(v.status.Version, shownName)
	w.raw(`</span></p></footer><script>` + script + `</script></body></html>`)
}

// changeForm is for who has the token. It needs the script, which alone can send the header.
const changeForm = `<section aria-labelledby="h-change" class="scripted"><h2 id="h-change">Change</h2>` +
	`<form id="unlock"><p><label for="token">Token</label> <input id="token" type="password" autocomplete="off" required> <button>Unlock changes</button></p></form>` +
	`<form id="add" hidden><p><label for="proto">Protocol</label> <select id="proto"><option>tcp<option>udp</select></p>` +
	`<p><label for="frontend">Frontend</label> <input id="frontend" required placeholder="8080" autocomplete="off"></p>` +
	`<p><label for="backend">Backend</label> <input id="backend" required placeholder="192.168.1.20:80" autocomplete="off"></p>` +
	`<p><label for="name">Name</label> <input id="name" autocomplete="off"></p>` +
	`<p><label for="ttl">Ends after</label> <input id="ttl" placeholder="never, or 12h" autocomplete="off"></p><p><button>Publish</button></p></form>` +
	`<p id="said" role="alert"></p></section>`

// section writes a section that has one part.
func (w *writer) section(id, heading, text string, v *view) {
	if heading == "" {
		w.raw(`<section aria-label="Summary"><div id="` + id + `">`)
	} else {
		w.raw(`<section aria-labelledby="` + heading + `"><h2 id="` + heading + `">` + text + `</h2><div id="` + id + `">`)
	}
	w.raw(v.part(id) + `</div></section>`)
}

func (w *writer) portCount(v *view) {
	if len(v.rows) == 0 {
		w.raw("Nothing is published.")
		return
	}
	w.count(len(v.rows), "port")
	w.raw(" or range")
	if len(v.rows) != 1 {
		w.raw("s")
	}
	w.raw(" of ports")
	for i := range v.diagnosis.Findings {
		if f := &v.diagnosis.Findings[i]; f.Severity != report.Notable && f.Count > len(f.Mappings) {
			w.raw(`. Of what a finding is about, the first ports are marked here.`)
			return
		}
	}
}

// summary writes how the daemon is.
func (w *writer) summary(v *view) {
	if v.failed != "" {
		w.raw(`<p class="bad" role="alert"><strong>The daemon does not answer</strong>: `)
		w.short(v.failed, shownText)
		if !v.read.IsZero() {
			w.raw(`. What is below was true at `)
			w.clock(v.read)
		}
		w.raw(`.</p>`)
	}
	if v.read.IsZero() {
		return
	}
	s := &v.status
	w.raw(`<dl>`)
	item := func(term string) { w.raw(`<div><dt>` + term + `<dd>`) }
	item("Ports")
	w.number(int64(s.Mappings.TCP.IPv4 + s.Mappings.TCP.IPv6))
	w.raw(" tcp, ")
	w.number(int64(s.Mappings.UDP.IPv4 + s.Mappings.UDP.IPv6))
	w.raw(" udp</div>")
	item("Table")
	w.short(s.Table.Name, shownName)
	if s.Table.Owned {
		w.raw(", owned")
	} else {
		w.raw(", watched")
	}
	if s.Table.Repaired != 0 {
		w.raw(", repaired ")
		w.count(s.Table.Repaired, "time")
	}
	w.raw("</div>")
	if c := s.Conntrack; c != nil {
		item("Tracked flows")
		w.number(int64(c.Count))
		if c.Max != 0 {
			w.raw(" of ")
			w.number(int64(c.Max))
		}
		w.raw("</div>")
	}
	item("Forwarding")
	w.raw("IPv4 ")
	w.text(string(s.Forwarding.IPv4))
	w.raw(", IPv6 ")
	w.text(string(s.Forwarding.IPv6))
	w.raw("</div>")
	if l := s.Loopback; l != nil {
		item("Localhost")
		if l.By == api.LoopbackBPF {
			w.raw("by eBPF</div>")
		} else {
			w.raw("by proxies</div>")
		}
	}
	if g := v.gateway; g != nil && g.Address != "" {
		item("WAN address")
		w.short(g.Address, shownName)
		w.raw("</div>")
	}
	item("Daemon")
	w.short(s.Version, shownName)
	w.raw(", since ")
	w.clock(s.Started)
	w.raw("</div></dl>")
}
