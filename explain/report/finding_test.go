// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package report_test

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/nat"
)

func ExampleWriteDiagnosis() {
	m, err := nat.ParseMappingText("8080->172.17.0.2:80")
	if err != nil {
		fmt.Println(err)
		return
	}
	d := report.Diagnosis{Findings: []report.Finding{
		{Kind: report.KindConntrack, Thing: "connection tracking: 95 of 100 entries"},
		{
			Severity: report.Stops, Kind: report.KindPolicy, Thing: "table inet corpwall, chain passing: policy drop", Remedy: "let it pass", Count: 42,
			Mappings: []nat.Mapping{m}, From: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		},
	}}
	report.SortFindings(d.Findings)
	if err := report.WriteDiagnosis(os.Stdout, d); err != nil {
		fmt.Println(err)
	}
	// Output:
	// tcp 8080 (and 41 more) from 127.0.0.1: stopped: table inet corpwall, chain passing: policy drop; remedy: let it pass
	// this host: connection tracking: 95 of 100 entries
}

// At most 60 lines are written, each finding on one of them.
func TestWriteDiagnosisIsBounded(t *testing.T) {
	d := report.Diagnosis{Findings: make([]report.Finding, 100), Unread: make([]string, 9), Skipped: 1, NotAsked: 2}
	for i := range d.Findings {
		d.Findings[i].Thing = "a\nb"
	}
	var b strings.Builder
	require.NoError(t, report.WriteDiagnosis(&b, d))
	require.Equal(t, 60, strings.Count(b.String(), "\n"))
	require.Contains(t, b.String(), "\nand 49 more\n")
}

func TestSeverityText(t *testing.T) {
	for s := report.Notable; s <= report.Stops; s++ {
		got, err := report.ParseSeverity(s.String())
		require.NoError(t, err)
		require.Equal(t, s, got)
	}
	_, err := report.ParseSeverity("grave")
	require.ErrorIs(t, err, nat.ErrInvalid)
}
