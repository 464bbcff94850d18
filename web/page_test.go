// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/nat"
)

// pageOf renders a page.
func pageOf(f facts, token string) string {
	if f.flows == nil {
		f.flows, f.hits = make([]int, len(f.mappings)), make([]uint64, len(f.mappings))
	}
	f.ids = idsOf(f.mappings)
	o := Options{Title: "router", Token: token}
	v := newView(f, 1)
	v.render(token != "")
	var w writer
	w.before(&o, v, "abc-1", time.Unix(1e9, 0))
	w.b = append(w.b, v.html...)
	w.after(&o, v)
	return string(w.b)
}

func idsOf(ms []nat.Mapping) (ids []string) {
	for _, m := range ms {
		ids = append(ids, rowID(m))
	}
	return ids
}

// The page has at most 40 KiB without what is published, and 5,000 rows take at most 500 bytes each.
func TestPageSize(t *testing.T) {
	f := facts{read: time.Unix(1e9, 0)}
	require.LessOrEqual(t, len(pageOf(f, "0123456789abcdef")), 40<<10)
	f.mappings = many(5000)
	require.LessOrEqual(t, len(pageOf(f, "0123456789abcdef")), 40<<10+5000*500)
}

// hostile are texts of others.
func hostile() []string {
	return []string{
		`<b>&amp;`, `"><script>alert(1)</script>`, `'onmouseover=alert(1) x='`, "</td></table></html>", "<!--", "]]>", "&lt;", "\x00\x01\x7f\x1b[2J", "\r\n\t",
		"\u202eevil\u202c\u2066", "שלום", "\xff\xfe", strings.Repeat("é", 32<<10), "javascript:alert(1)", "${1}{{.}}`", strings.Repeat("<", 100),
	}
}

// everywhere puts a text where text of others may be.
func everywhere(text string) facts {
	m := nat.Mapping{Proto: nat.TCP, Frontend: netip.MustParseAddrPort("192.0.2.1:80"), Backend: netip.MustParseAddrPort("[fd00::2]:80"), Name: text, Expires: time.Unix(2e9, 0)}
	at := time.Unix(2e9, 0)
	return facts{
		read: time.Unix(1e9, 0), failed: text, mappings: []nat.Mapping{m},
		status: api.Status{Version: text, Table: api.TableStatus{Name: text}, Warnings: []string{text}, MissingFeatures: []api.MissingFeature{{Name: text, Fallback: text}}},
		diagnosis: report.Diagnosis{
			Findings: []report.Finding{{Severity: report.Stops, Kind: text, Thing: text, What: text, Remedy: text, Count: 2, Mappings: []nat.Mapping{m}}}, Unread: []string{text},
		},
		diagnosed: time.Unix(1e9, 0),
		gateway: &api.Gateway{
			Address: text, Warnings: []string{text},
			Leases:   []api.GatewayLease{{Kind: text, Client: text, Proto: text, Description: text, Expires: &at}},
			Refusals: []api.GatewayRefusal{{Kind: text, Client: text, Request: text, Reason: text}},
		},
	}
}

// elements are the elements and attributes of a page, without what they hold.
func elements(t *testing.T, page string) (all []string) {
	t.Helper()
	z := html.NewTokenizer(strings.NewReader(page))
	for {
		switch z.Next() {
		case html.ErrorToken:
			return all
		case html.StartTagToken, html.SelfClosingTagToken, html.EndTagToken:
			tok := z.Token()
			all = append(all, tok.Data)
			for _, a := range tok.Attr {
				all = append(all, " "+a.Key)
			}
		case html.CommentToken:
			all = append(all, "comment")
		case html.TextToken, html.DoctypeToken:
		}
	}
}

// Text of others is text: it makes no element, attribute or comment, and what nobody sees is spelled out.
func TestPageEscapes(t *testing.T) {
	want := elements(t, pageOf(everywhere("plain"), "0123456789abcdef"))
	for _, text := range hostile() {
		page := pageOf(everywhere(text), "0123456789abcdef")
		require.Equal(t, want, elements(t, page), "%q", text)
		require.True(t, utf8.ValidString(page), "%q", text)
		require.NotContains(t, page, "\u202e")
		require.NotContains(t, page, "\x1b")
		require.Less(t, len(pageOf(everywhere(text), "")), 64<<10, "%.20q", text)
	}
}

func TestExplainPageEscapes(t *testing.T) {
	render := func(text string) string {
		var w writer
		w.explainPage(&Options{Title: text}, text, text, text, text, false)
		return string(w.b)
	}
	for _, text := range hostile() {
		require.Equal(t, elements(t, render("plain")), elements(t, render(text)), "%q", text)
	}
}

func FuzzText(f *testing.F) {
	for _, text := range hostile() {
		f.Add(text, 10)
	}
	f.Fuzz(func(t *testing.T, s string, most int) {
		var w writer
		w.short(s, max(0, most))
		require.True(t, utf8.Valid(w.b))
		require.NotContains(t, string(w.b), "<")
		require.NotContains(t, string(w.b), ">")
		require.NotContains(t, string(w.b), `"`)
		require.NotContains(t, string(w.b), "'")
		w.b = nil
		w.attr(s)
		require.NotContains(t, string(w.b[1:len(w.b)-1]), `"`)
	})
}

func TestOwner(t *testing.T) {
	for name, want := range map[string]owner{
		"": {"operator", "operator", ""}, "web": {"operator", "operator", "web"}, "pmp:": {"nat-pmp", "NAT-PMP", ""}, "pmp2": {"operator", "operator", "pmp2"},
		"pcp:0011": {"pcp", "PCP", "0011"}, "igd:Torrent 1": {"igd", "UPnP IGD", "Torrent 1"}, "cni:abc": {"cni", "CNI", "abc"}, "docker:7": {"docker", "Docker", "7"},
	} {
		require.Equal(t, want, ownerOf(name), name)
	}
}

// A row says what a finding says of its mapping, also of a port of a range.
func TestRowState(t *testing.T) {
	ms := []nat.Mapping{mapping(t, "80->172.17.0.2:80", ""), mapping(t, "8000-8009->172.17.0.2:8000-8009", ""), mapping(t, "53->172.17.0.2:53/udp", "")}
	v := newView(facts{
		mappings: ms, ids: idsOf(ms), flows: make([]int, 3), hits: make([]uint64, 3),
		diagnosis: report.Diagnosis{Findings: []report.Finding{
			{Severity: report.Stops, Count: 1, Mappings: []nat.Mapping{mapping(t, "8009->172.17.0.2:8009", "")}},
			{Severity: report.MayStop, Count: 3, Mappings: ms},
		}},
	}, 0)
	require.Equal(t, []string{"may be stopped", "stopped", "may be stopped"}, []string{v.rows[0].state, v.rows[1].state, v.rows[2].state})
}

// Hits only rise: by what proxies have carried, and by flows that were not there before.
func TestHits(t *testing.T) {
	ms := []nat.Mapping{mapping(t, "80->172.17.0.2:80", ""), mapping(t, "8000-8009->172.17.0.2:8000-8009", ""), mapping(t, "53->172.17.0.2:53/udp", "")}
	at := func(port string, translated int, live int64, ever uint64) nat.Connections {
		return nat.Connections{Mapping: mapping(t, port, ""), Translated: translated, Proxied: live, ProxiedEver: ever}
	}
	const gone, web, first, last, dns = "79->172.17.0.2:79", "80->172.17.0.2:80", "8000->172.17.0.2:8000", "8009->172.17.0.2:8009", "53->172.17.0.2:53/udp"
	var c counts
	for _, step := range []struct {
		conns []nat.Connections
		flows []int
		hits  []uint64
		total sample
	}{
		{nil, []int{0, 0, 0}, []uint64{0, 0, 0}, sample{}},
		{[]nat.Connections{at(gone, 7, 0, 0), at(web, 3, 1, 5), at(first, 1, 0, 0), at(last, 1, 0, 0), at(dns, 2, 0, 0)}, []int{4, 2, 2}, []uint64{8, 2, 2}, sample{6, 2}},
		{[]nat.Connections{at(web, 1, 0, 6), at(last, 4, 0, 0)}, []int{1, 4, 0}, []uint64{9, 4, 2}, sample{5, 0}},
		{[]nat.Connections{at(web, 2, 0, 1), at(dns, 1, 0, 0)}, []int{2, 0, 1}, []uint64{11, 4, 3}, sample{2, 1}}, // of another daemon
	} {
		flows, hits, total := c.add(idsOf(ms), ms, step.conns)
		require.Equal(t, step.flows, flows)
		require.Equal(t, step.hits, hits)
		require.Equal(t, step.total, total)
	}
	ms[0] = mapping(t, "80->172.17.0.3:80", "")
	_, hits, _ := c.add(idsOf(ms), ms, []nat.Connections{at("80->172.17.0.3:80", 1, 0, 0)})
	require.Equal(t, uint64(1), hits[0], "another backend counts from zero")
}

func TestHistory(t *testing.T) {
	var h history
	require.Empty(t, h.samples())
	start := time.Unix(1e9, 0).Truncate(slotTime)
	h.add(start, sample{3, 1})
	h.add(start.Add(time.Second), sample{1, 2})
	h.add(start.Add(2*slotTime), sample{5, 0})
	require.Equal(t, []aged{{sample{3, 2}, 2}, {sample{5, 0}, 0}}, h.samples(), "the most of a slot, and none of one that is missing")
	require.Equal(t, -1, h.numbers(func(s sample) int { return s.tcp })[slots-2])
	for i := range 3 * slots {
		h.add(start.Add(time.Duration(i+3)*slotTime), sample{i, i})
	}
	require.Len(t, h.samples(), slots)
	h.add(start, sample{1, 1})
	require.Equal(t, []aged{{sample{1, 1}, 0}}, h.samples(), "the clock was set back")
	var w writer
	w.plot(nil, sample{})
	w.plot([]aged{{sample{1, 2}, slots - 1}, {sample{1, 2}, 3}, {sample{9, 2}, 2}, {sample{1, 2}, 0}}, sample{1, 2})
	require.NotContains(t, string(w.b), "-1")
}
