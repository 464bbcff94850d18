// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"

	"github.com/nftnat/nftnat/explain/report"
)

// Diagnosis is what is wrong on the host of a daemon.
type Diagnosis struct {
	// Findings are what is wrong, the worst first.
	Findings []Finding `json:"findings"`
	// Mappings is how many published ports were looked at, and Skipped how many were not, for want
	// of time. NotAsked is how many backends were not asked whether they are there.
	Mappings int `json:"mappings"`
	Skipped  int `json:"skipped"`
	NotAsked int `json:"not_asked"`
	// Unread says what could not be read, a line each.
	Unread []string `json:"unread"`
}

// Finding is one thing that is wrong, whatever it stops.
type Finding struct {
	// Severity is "stops", "may-stop" or "notable".
	Severity string `json:"severity"`
	// Kind, Thing, What, Remedy and Answer are as those of a Cause.
	Kind   string `json:"kind"`
	Thing  string `json:"thing"`
	What   string `json:"what"`
	Remedy string `json:"remedy"`
	Answer bool   `json:"answer"`
	// Count is how many published ports it is about, and Mappings the first few of them. Zero: it is
	// about the host.
	Count    int       `json:"count"`
	Mappings []Mapping `json:"mappings"`
	// From are the clients that it stops, if others are not stopped. Empty: all.
	From []string `json:"from"`
	// Text is all that in one line.
	Text string `json:"text"`
}

// DiagnosisOf is the document of a diagnosis.
func DiagnosisOf(d report.Diagnosis) Diagnosis {
	return Diagnosis{
		Findings: documents(d.Findings, findingOf), Mappings: d.Mappings, Skipped: d.Skipped, NotAsked: d.NotAsked, Unread: append([]string{}, d.Unread...),
	}
}

func findingOf(f report.Finding) Finding {
	return Finding{
		Severity: f.Severity.String(), Kind: f.Kind, Thing: f.Thing, What: f.What, Remedy: f.Remedy, Answer: f.Answer, Count: f.Count,
		Mappings: documents(f.Mappings, mapping), From: documents(f.From, netip.Addr.String), Text: f.String(),
	}
}

// Diagnosis returns the diagnosis that the document describes.
func (d *Diagnosis) Diagnosis() (r report.Diagnosis, err error) {
	r = report.Diagnosis{Mappings: d.Mappings, Skipped: d.Skipped, NotAsked: d.NotAsked, Unread: texts(d.Unread)}
	r.Findings, err = parseAll(d.Findings, (*Finding).finding)
	return r, err
}

func (f *Finding) finding() (r report.Finding, err error) {
	r = report.Finding{Kind: f.Kind, Thing: f.Thing, What: f.What, Remedy: f.Remedy, Answer: f.Answer, Count: f.Count}
	if r.Severity, err = report.ParseSeverity(f.Severity); err != nil {
		return r, fmt.Errorf("read diagnosis: %w", err)
	}
	if r.Mappings, err = parseAll(f.Mappings, (*Mapping).mapping); err != nil {
		return r, err
	}
	r.From, err = parseAll(f.From, func(s *string) (netip.Addr, error) { return netip.ParseAddr(*s) })
	return r, err
}

func (h *handler) getDoctor(_ http.ResponseWriter, c *call) (any, error) {
	release, err := h.acquire(c, h.doctors, h.limits.bodyTime, "doctor")
	if err != nil {
		return nil, err
	}
	defer release()
	d, err := h.Doctor(c.Context())
	if err != nil {
		return nil, err
	}
	return DiagnosisOf(d), nil
}

// Doctor returns what is wrong on the server's host.
func (c *Client) Doctor(ctx context.Context) (report.Diagnosis, error) {
	doc, err := fetch[Diagnosis](ctx, c, http.MethodGet, "/v1/doctor", nil)
	if err != nil {
		return report.Diagnosis{}, err
	}
	return doc.Diagnosis()
}
