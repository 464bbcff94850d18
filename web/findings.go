// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"net/netip"
	"net/url"

	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/nat"
)

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
