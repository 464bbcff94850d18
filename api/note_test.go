// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// A client fills the report of a call, in the words of the engine.
func TestNotes(t *testing.T) {
	fake := newFake()
	s := start(t, Options{Engine: fake}, defaultLimits())
	report := nat.Report{Notes: []string{"of a call before"}}
	publish := func(text string) {
		_, err := s.Publish(nat.WithReport(t.Context(), &report), nat.PublishOptions{}, parse(t, text))
		require.NoError(t, err)
	}
	publish("80->172.17.0.2:80")
	require.Equal(t, nat.Report{}, report)
	fake.repeats = true
	publish("80->172.17.0.2:80")
	require.Equal(t, nat.Report{Unchanged: true}, report)
	_, err := s.Apply(nat.WithReport(t.Context(), &report), parse(t, "80->172.17.0.2:80"))
	require.NoError(t, err)
	require.Equal(t, nat.Report{Unchanged: true}, report)
	_, err = s.Apply(nat.WithReport(t.Context(), &report))
	require.NoError(t, err)
	require.Equal(t, nat.Report{}, report)
	fake.notes = []string{"turned on forwarding: sysctl=net/ipv4/ip_forward was=0 is=1", "100 % of größe\x1b\r\nX: y"}
	publish("81->172.17.0.2:80")
	require.Equal(t, nat.Report{Notes: fake.notes}, report)
	_, err = s.Remove(nat.WithReport(t.Context(), &report), nat.Removal{Name: "nobody"})
	require.ErrorIs(t, err, nat.ErrNotFound)
	require.Equal(t, nat.Report{}, report, "empty after an error")
	fake.notes = nil
	for i := range maxNotes + 2 {
		fake.notes = append(fake.notes, fmt.Sprint("line ", i))
	}
	publish("82->172.17.0.2:80")
	require.Equal(t, append(fake.notes[:maxNotes:maxNotes], "2 more lines are in the log"), report.Notes)
}

func TestClientRemoves(t *testing.T) {
	ms := []nat.Mapping{parse(t, "80-81->172.17.0.2:80-81"), parse(t, "82->[fd00::2]:82"), parse(t, "83->172.17.0.2:83")}
	ms[0].Name, ms[1].Name = "a & b", "a & b"
	s := start(t, Options{Engine: newFake(ms...)}, defaultLimits())
	other := ms[2]
	other.Backend = ms[0].Backend
	_, err := s.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{other}, Exact: true})
	require.ErrorIs(t, err, nat.ErrNotFound)
	done, err := s.Remove(t.Context(), nat.Removal{Mappings: ms[2:], Exact: true})
	require.NoError(t, err)
	require.Equal(t, ms[2:], done)
	_, err = s.Remove(t.Context(), nat.Removal{Name: "a & c", Mappings: ms[:1]})
	require.ErrorIs(t, err, nat.ErrNotFound)
	done, err = s.Remove(t.Context(), nat.Removal{Name: "a & b"})
	require.NoError(t, err)
	require.Equal(t, ms[:2], done)
	for _, r := range []nat.Removal{{}, {Mappings: ms}, {Name: "x", Mappings: ms[:2]}} {
		_, err := s.Remove(t.Context(), r)
		require.ErrorIs(t, err, nat.ErrInvalid)
	}
}

func FuzzNote(f *testing.F) {
	f.Add("100 % of größe\x00\x7f%41")
	f.Fuzz(func(t *testing.T, note string) {
		text := escapeNote(note)
		require.Regexp(t, `^[ -~]*$`, text)
		require.Equal(t, note, readNote(text))
	})
}
