// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// A client hears what a change did beyond its answer, in the words of the engine.
func TestNotes(t *testing.T) {
	fake := newFake()
	s := start(t, Options{Engine: fake}, defaultLimits())
	var notes []string
	s.Note = func(line string) { notes = append(notes, line) }
	publish := func(text string) {
		notes = nil
		_, err := s.Publish(t.Context(), nat.PublishOptions{}, parse(t, text))
		require.NoError(t, err)
	}
	publish("80->172.17.0.2:80")
	require.Empty(t, notes)
	fake.notes = []string{"turned on forwarding: sysctl=net/ipv4/ip_forward was=0 is=1", "100 % of größe\x1b\r\nX: y"}
	publish("81->172.17.0.2:80")
	require.Equal(t, fake.notes, notes)
	fake.notes = nil
	for i := range maxNotes + 2 {
		fake.notes = append(fake.notes, fmt.Sprint("line ", i))
	}
	publish("82->172.17.0.2:80")
	require.Equal(t, append(fake.notes[:maxNotes:maxNotes], "2 more lines are in the log"), notes)
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
	done, err = s.Remove(t.Context(), nat.Removal{Name: "a & b"})
	require.NoError(t, err)
	require.Equal(t, ms[:2], done)
	for _, r := range []nat.Removal{{}, {Mappings: ms}, {Name: "x", Mappings: ms[:1]}} {
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
