// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"

	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/nat"
)

// Explanation is what becomes of the first packet of a client to a frontend, and of its answer.
type Explanation struct {
	// Proto and Frontend are what was asked about, the latter as [nat.ParseFrontend] reads it.
	Proto    string `json:"proto"`
	Frontend string `json:"frontend"`
	// From is the client that was asked about. Absent: none was given.
	From string `json:"from,omitempty"`
	// Verdict is "passes", "stopped", "uncertain" or "not-published".
	Verdict string `json:"verdict"`
	// Mapping is the one that serves the client. Absent: none is published.
	Mapping *Mapping `json:"mapping,omitempty"`
	// Client and To are the addresses of the packet, To with a port: what was asked about, or a
	// typical packet. Absent: there is none. Typical says what client was chosen. Absent: none was.
	Client  string `json:"client,omitempty"`
	To      string `json:"to,omitempty"`
	Typical string `json:"typical,omitempty"`
	// Path is "netfilter", "proxy" or "ebpf". Absent: the packet does not get that far.
	Path string `json:"path,omitempty"`
	// Source is what the backend sees as the client's address. Absent: it sees nothing.
	Source string `json:"source,omitempty"`
	// Cause is the first thing that stops the packet or its answer, or that cannot be known.
	// Absent: it passes.
	Cause *Cause `json:"cause,omitempty"`
	// Others are further things that would stop it, or that cannot be known.
	Others []Cause `json:"others"`
	// Notes are worth knowing, and stop nothing.
	Notes []string `json:"notes"`
	// Steps is the way of the packet, and then of its answer.
	Steps []Step `json:"steps"`
	// Near are mappings that were perhaps meant, the nearest first.
	Near []NearMapping `json:"near"`
	// Unread says what could not be read, a line each.
	Unread []string `json:"unread"`
}

// Cause is a thing that stops a packet or its answer.
type Cause struct {
	// Kind is what kind of thing it is, for programs. A later version may add more.
	Kind string `json:"kind"`
	// Thing is what it is, as its own tools name it; What says what it does, and Remedy what
	// would correct it. Each is a line.
	Thing  string `json:"thing"`
	What   string `json:"what"`
	Remedy string `json:"remedy"`
	// Answer is whether it stops the answer and not the packet.
	Answer bool `json:"answer"`
	// Certain is false if it is not known whether it stops it.
	Certain bool `json:"certain"`
}

// Step is a step of a packet's way.
type Step struct {
	Where  string `json:"where"`
	Text   string `json:"text"`
	Answer bool   `json:"answer"`
}

// NearMapping is a mapping that was perhaps meant.
type NearMapping struct {
	Mapping Mapping `json:"mapping"`
	// Why says in a few words what makes it near.
	Why string `json:"why"`
}

// ExplanationOf is the document of a report.
func ExplanationOf(r report.Report) Explanation {
	doc := Explanation{
		Proto: r.Query.Proto.String(), Frontend: nat.Mapping{Frontend: r.Query.Frontend}.FrontendText(), From: addrText(r.Query.From),
		Verdict: r.Verdict.String(), Client: addrText(r.Client), Typical: r.Typical, Path: string(r.Path), Source: addrText(r.Source),
		Others: documents(r.Others, causeOf), Notes: append([]string{}, r.Notes...), Steps: documents(r.Steps, func(s report.Step) Step { return Step(s) }),
		Near: documents(r.Near, nearOf), Unread: append([]string{}, r.Unread...),
	}
	if r.Frontend.IsValid() {
		doc.To = r.Frontend.String()
	}
	if r.Mapping != (nat.Mapping{}) {
		m := mapping(r.Mapping)
		doc.Mapping = &m
	}
	if r.Cause != nil {
		c := causeOf(*r.Cause)
		doc.Cause = &c
	}
	return doc
}

// texts are lines as a report has them.
func texts(lines []string) []string {
	if len(lines) == 0 {
		return nil
	}
	return lines
}

func causeOf(c report.Cause) Cause { return Cause(c) }

func nearOf(n nat.Near) NearMapping { return NearMapping{mapping(n.Mapping), n.Why} }

func (n *NearMapping) near() (nat.Near, error) {
	m, err := n.Mapping.mapping()
	return nat.Near{Mapping: m, Why: n.Why}, err
}

// Report returns the report that the document describes.
func (e *Explanation) Report() (r report.Report, err error) {
	if r.Query, err = report.ParseQuery(e.Proto, e.Frontend, e.From); err != nil {
		return r, fmt.Errorf("read explanation: %w", err)
	}
	if r.Verdict, err = report.ParseVerdict(e.Verdict); err != nil {
		return r, fmt.Errorf("read explanation: %w", err)
	}
	for text, to := range map[string]*netip.Addr{e.Source: &r.Source, e.Client: &r.Client} {
		if text == "" {
			continue
		}
		if *to, err = netip.ParseAddr(text); err != nil {
			return r, fmt.Errorf("read explanation: %w", err)
		}
	}
	if e.To != "" {
		if r.Frontend, err = netip.ParseAddrPort(e.To); err != nil {
			return r, fmt.Errorf("read explanation: %w", err)
		}
	}
	if e.Mapping != nil {
		if r.Mapping, err = e.Mapping.mapping(); err != nil {
			return r, err
		}
	}
	if r.Near, err = parseAll(e.Near, (*NearMapping).near); err != nil {
		return r, err
	}
	r.Typical, r.Path, r.Notes, r.Unread = e.Typical, report.Path(e.Path), texts(e.Notes), texts(e.Unread)
	if e.Cause != nil {
		c := report.Cause(*e.Cause)
		r.Cause = &c
	}
	for _, c := range e.Others {
		r.Others = append(r.Others, report.Cause(c))
	}
	for _, s := range e.Steps {
		r.Steps = append(r.Steps, report.Step(s))
	}
	return r, nil
}

func (h *handler) getExplain(_ http.ResponseWriter, c *call) (any, error) {
	for _, name := range []string{"proto", "frontend"} {
		if _, ok := c.query[name]; !ok {
			return nil, problem(http.StatusBadRequest, CodeInvalid, fmt.Sprintf("parameter %q is missing", name))
		}
	}
	from, given := c.query["from"]
	if given && from == "" {
		return nil, invalid("client", from, "it is no IP address")
	}
	q, err := report.ParseQuery(c.query["proto"], c.query["frontend"], from)
	if err != nil {
		return nil, err
	}
	release, err := h.acquire(c, h.searches, h.limits.bodyTime, "explain")
	if err != nil {
		return nil, err
	}
	defer release()
	r, err := h.Explain(c.ctx, q)
	if err != nil {
		return nil, err
	}
	if r.Verdict != report.NotPublished {
		return ExplanationOf(r), nil
	}
	what := nat.DescribeFrontend(nat.Mapping{Proto: q.Proto, Frontend: q.Frontend})
	p := problem(http.StatusNotFound, CodeNotFound, fmt.Sprintf("explain %s: %s is not published", what, what))
	p.Near = documents(r.Near, nearOf)
	return nil, p
}

// Explain returns what becomes of a client's packet to a frontend, as the server's namespace
// is. If no such mapping is published, the verdict says so and there is no error.
func (c *Client) Explain(ctx context.Context, q report.Query) (report.Report, error) {
	query := url.Values{"proto": {q.Proto.String()}, "frontend": {nat.Mapping{Frontend: q.Frontend}.FrontendText()}}
	if q.From.IsValid() {
		query.Set("from", q.From.String())
	}
	doc, err := fetch[Explanation](ctx, c, http.MethodGet, "/v1/explain?"+query.Encode(), nil)
	var p *Problem
	if errors.As(err, &p) && p.Code == CodeNotFound {
		near, err := parseAll(p.Near, (*NearMapping).near)
		return report.Report{Query: q, Verdict: report.NotPublished, Near: near}, err
	}
	if err != nil {
		return report.Report{}, err
	}
	return doc.Report()
}
