// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/nat"
)

// explainFake explains 8080 over TCP, by any thing that a report can have.
func explainFake(_ context.Context, q report.Query) (report.Report, error) {
	if q.Proto != nat.TCP {
		m, err := nat.ParseMappingText("8080->172.17.0.2:80")
		return report.Report{Query: q, Verdict: report.NotPublished, Near: []nat.Near{{Mapping: m, Why: "over tcp"}}}, err
	}
	m, err := nat.ParseMappingText("8080->172.17.0.2:80")
	m.Name, m.Expires = "web", time.Date(2999, 1, 2, 3, 4, 5, 0, time.UTC)
	c := report.Cause{
		Kind: "policy", Thing: "table inet corpwall, chain passing: policy drop", What: "drops <it>", Remedy: "let it pass", Answer: true, Certain: true,
	}
	return report.Report{
		Query: q, Verdict: report.Stopped, Mapping: m, Path: report.ByNetfilter, Source: netip.MustParseAddr("192.0.2.2"), Cause: &c,
		Client: netip.MustParseAddr("fe80::1%eth0"), Frontend: netip.MustParseAddrPort("[2001:db8::1]:80"), Typical: "a client", Notes: []string{"a note"},
		Others: []report.Cause{{Kind: "limit"}}, Steps: []report.Step{{Where: "route", Text: "by docker0", Answer: true}}, Unread: []string{"the eBPF"},
	}, err
}

func query(t *testing.T, proto, frontend, from string) report.Query {
	t.Helper()
	q, err := report.ParseQuery(proto, frontend, from)
	require.NoError(t, err)
	return q
}

// The client returns the report that the server made.
func TestClientExplain(t *testing.T) {
	s := start(t, Options{Engine: newFake(), Explain: explainFake}, defaultLimits())
	for _, q := range []report.Query{
		query(t, "tcp", "8080", ""), query(t, "tcp", "8080", "fe80::1%eth0"), query(t, "tcp", "[2001:db8::1]:8080", "::1"),
		query(t, "tcp", "0.0.0.0:8080", "192.0.2.2"), query(t, "udp", "8080", ""),
	} {
		want, err := explainFake(t.Context(), q)
		require.NoError(t, err)
		got, err := s.Explain(t.Context(), q)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

// A report that is all but empty crosses, too.
func TestExplanationOfLittle(t *testing.T) {
	doc := ExplanationOf(report.Report{Query: query(t, "tcp", "80", "")})
	require.NotNil(t, doc.Others)
	require.NotNil(t, doc.Steps)
	require.NotNil(t, doc.Near)
	require.NotNil(t, doc.Unread)
	r, err := doc.Report()
	require.NoError(t, err)
	require.Equal(t, report.Report{Query: query(t, "tcp", "80", "")}, r)
}

func TestClientExplainErrors(t *testing.T) {
	s := start(t, Options{Engine: newFake()}, defaultLimits())
	_, err := s.Explain(t.Context(), query(t, "tcp", "80", ""))
	require.ErrorIs(t, err, errors.ErrUnsupported)
	for _, change := range []func(*Explanation){
		func(e *Explanation) { e.Verdict = "perhaps" }, func(e *Explanation) { e.Source = "nobody" }, func(e *Explanation) { e.Client = "x" }, func(e *Explanation) { e.To = "80" }, func(e *Explanation) { e.Proto = "x" },
		func(e *Explanation) { e.Mapping.Backend = "x" }, func(e *Explanation) { e.Near = []NearMapping{{}} },
	} {
		r, err := explainFake(t.Context(), query(t, "tcp", "80", ""))
		require.NoError(t, err)
		doc := ExplanationOf(r)
		change(&doc)
		_, err = doc.Report()
		require.Error(t, err)
	}
}

// No more are explained at once than is allowed.
func TestExplainBusy(t *testing.T) {
	l := quick()
	l.searches = 0
	s := start(t, Options{Engine: newFake(), Explain: explainFake}, l)
	_, err := s.Explain(t.Context(), query(t, "tcp", "80", ""))
	require.ErrorIs(t, err, ErrBusy)
}

// No field of a report is left behind: the fake has each, and so must the document.
func TestExplanationIsWhole(t *testing.T) {
	r, err := explainFake(t.Context(), query(t, "tcp", "8080", "::1"))
	require.NoError(t, err)
	other, err := explainFake(t.Context(), query(t, "udp", "8080", "::1"))
	require.NoError(t, err)
	r.Near = other.Near
	whole := reflect.ValueOf(r)
	for i := range whole.NumField() {
		require.False(t, whole.Field(i).IsZero(), whole.Type().Field(i).Name)
	}
	doc := ExplanationOf(r)
	got, err := doc.Report()
	require.NoError(t, err)
	require.Equal(t, r, got)
}
