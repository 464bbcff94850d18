// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/nat"
)

// doctorFake finds any thing that a diagnosis can have.
func doctorFake(context.Context) (report.Diagnosis, error) {
	m, err := nat.ParseMappingText("8080->172.17.0.2:80")
	return report.Diagnosis{
		Findings: []report.Finding{
			{
				Severity: report.Stops, Kind: "policy", Thing: "table inet corpwall", What: "drops <it>", Remedy: "let it pass", Answer: true, Count: 7,
				Mappings: []nat.Mapping{m}, From: []netip.Addr{netip.MustParseAddr("fe80::1%eth0")},
			},
			{Severity: report.Notable, Kind: "conntrack", Thing: "connection tracking: 9 of 10 entries"},
		},
		Mappings: 7, Skipped: 2, NotAsked: 3, Unread: []string{"the eBPF"},
	}, err
}

// The client returns the diagnosis that the server made.
func TestClientDoctor(t *testing.T) {
	s := start(t, Options{Engine: newFake(), Doctor: doctorFake}, defaultLimits())
	want, err := doctorFake(t.Context())
	require.NoError(t, err)
	got, err := s.Doctor(t.Context())
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// A client that goes away is no failure to be logged.
func TestDoctorClientGone(t *testing.T) {
	var log bytes.Buffer
	asked, ended := make(chan struct{}), make(chan struct{})
	s := start(t, Options{Engine: newFake(), Log: slog.New(slog.NewTextHandler(&log, nil)), Doctor: func(ctx context.Context) (report.Diagnosis, error) {
		defer close(ended)
		close(asked)
		<-ctx.Done()
		return report.Diagnosis{}, ctx.Err()
	}}, defaultLimits())
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	_, err := s.Doctor(ctx)
	require.ErrorIs(t, err, context.Canceled)
	<-ended
	require.NoError(t, s.stop())
	require.Empty(t, log.String())
}

func TestDiagnosisOfNothing(t *testing.T) {
	doc := DiagnosisOf(report.Diagnosis{Findings: []report.Finding{{}}})
	require.NotNil(t, doc.Unread)
	require.NotNil(t, doc.Findings[0].Mappings)
	require.NotNil(t, doc.Findings[0].From)
	doc.Findings[0].Severity = "grave"
	_, err := doc.Diagnosis()
	require.ErrorIs(t, err, nat.ErrInvalid)
}
