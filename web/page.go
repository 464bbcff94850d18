// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"crypto/sha256"
	_ "embed" // for the style and the script
	"encoding/base64"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/nat"
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

// wrong writes what is wrong. Until the doctor has answered, it is what the status says.
func (w *writer) wrong(v *view) {
	if v.read.IsZero() {
		w.raw(`<p class="dim">Not known.</p>`)
		return
	}
	n := 0
	list := func() {
		if n++; n == 1 {
			w.raw(`<ul class="findings">`)
		}
	}
	if v.diagnosed.IsZero() {
		for _, lines := range [][]string{v.status.Warnings, v.status.Findings} {
			for _, line := range lines {
				list()
				w.raw(`<li>`)
				w.short(line, shownText)
			}
		}
	}
	for i := range v.diagnosis.Findings {
		if n == maxFindings {
			w.raw(`<li class="dim">and `)
			w.number(int64(len(v.diagnosis.Findings) - i))
			w.raw(` more: nftnat doctor lists all`)
			break
		}
		list()
		w.finding(&v.diagnosis.Findings[i])
	}
	if n != 0 {
		w.raw(`</ul>`)
	} else if !v.diagnosed.IsZero() {
		w.raw(`<p class="good">Nothing is wrong, as far as the daemon can see.</p>`)
	}
	if d := &v.diagnosis; v.diagnosed.IsZero() {
		w.raw(`<p class="dim">The doctor has not looked yet.</p>`)
	} else {
		w.raw(`<p class="dim">The doctor looked at `)
		w.clock(v.diagnosed)
		w.raw(`, at `)
		w.count(d.Mappings, "port")
		if d.Skipped != 0 {
			w.raw(`, and at `)
			w.number(int64(d.Skipped))
			w.raw(` not, for want of time`)
		}
		if d.NotAsked != 0 {
			w.raw(`; `)
			w.count(d.NotAsked, "backend")
			w.raw(` not asked`)
		}
		w.raw(`.</p>`)
	}
	w.lines("What could not be read", v.diagnosis.Unread)
	var missing []string
	for _, m := range v.status.MissingFeatures {
		missing = append(missing, m.Name+": "+m.Fallback)
	}
	w.lines("What the kernel lacks", missing)
}

// maxFindings is how many findings are shown.
const maxFindings = 60

// lines writes lines that are folded.
func (w *writer) lines(summary string, lines []string) {
	if len(lines) == 0 {
		return
	}
	w.raw(`<details><summary>` + summary + ` (`)
	w.number(int64(len(lines)))
	w.raw(`)</summary><ul>`)
	for _, l := range lines[:min(len(lines), maxFindings)] {
		w.raw(`<li>`)
		w.short(l, shownText)
	}
	w.raw(`</ul></details>`)
}

func (w *writer) finding(f *report.Finding) {
	w.raw(`<li class="` + f.Severity.String() + `"><strong>`)
	switch f.Severity {
	case report.Stops:
		w.raw("Stopped")
		if f.Answer {
			w.raw(": the answer")
		}
	case report.MayStop:
		w.raw("May be stopped")
	case report.Notable:
		w.raw("Notable")
	}
	w.raw(`</strong> `)
	if f.Count > 0 && len(f.Mappings) > 0 {
		w.raw(`<span class="about">`)
		w.text(nat.DescribeFrontend(f.Mappings[0]))
		if f.Count > 1 {
			w.raw(" and ")
			w.number(int64(f.Count - 1))
			w.raw(" more")
		}
		w.from(f.From)
		w.raw(`</span> `)
		w.explainFrom(f)
	} else {
		w.raw(`<span class="about">this host</span>`)
	}
	w.raw(`<p>`)
	w.short(f.Thing, shownText)
	if f.What != "" {
		w.raw(`<br>`)
		w.short(f.What, shownText)
	}
	if f.Remedy != "" {
		w.raw(`<br><b>Remedy</b>: `)
		w.short(f.Remedy, shownText)
	}
	w.raw(`</p>`)
}

func (w *writer) from(clients []netip.Addr) {
	for i, a := range clients {
		if i == 3 {
			w.raw(" and ")
			w.count(len(clients)-i, "more client")
			return
		}
		if i == 0 {
			w.raw(" from ")
		} else {
			w.raw(", ")
		}
		w.text(a.String())
	}
}

// explainFrom links to the explanation of what a finding is about.
func (w *writer) explainFrom(f *report.Finding) {
	m := f.Mappings[0]
	m.More = 0
	query := url.Values{"proto": {m.Proto.String()}, "frontend": {m.FrontendText()}}
	if len(f.From) != 0 {
		query.Set("from", f.From[0].String())
	}
	w.raw(`<a href=`)
	w.attr("/explain?" + query.Encode())
	w.raw(` aria-label="explain `)
	w.text(nat.DescribeFrontend(m))
	w.raw(`">explain</a>`)
}

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
