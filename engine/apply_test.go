// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

func linesOf(changes []nat.Change) []string {
	lines := make([]string, len(changes))
	for i, c := range changes {
		lines[i] = c.String()
	}
	return lines
}

func TestApply(t *testing.T) {
	e, b := openFake(t)
	first := mapAll(t, "80-89->172.30.0.2:80-89", "53->172.30.0.2:53/udp", "53->172.30.0.2:53", "0.0.0.0:90->10.9.0.2:90")
	changes, err := e.Apply(t.Context(), first...)
	require.NoError(t, err)
	require.Equal(t, []string{
		"+ 53->172.30.0.2:53", "+ 80-89->172.30.0.2:80-89", "+ 0.0.0.0:90->10.9.0.2:90", "+ 53->172.30.0.2:53/udp",
	}, linesOf(changes))
	requireConsistent(t, b, e)

	updates := 0
	b.kernel.Hook(func(op string) error {
		if op == "Update" || op == "Replace" {
			updates++
		}
		return nil
	})
	changes, err = e.Apply(t.Context(), first...)
	require.NoError(t, err)
	require.Empty(t, changes)
	require.Zero(t, updates, "the same again touches nothing")

	// Frontends give way to wider and to narrower ones in one step.
	named := nattest.Mapping(t, "86-89->172.30.0.2:86-89")
	named.Name = "x"
	second := append(mapAll(t, local4+":80->172.30.0.2:80", "81-85->172.30.0.2:81-85", "90->10.9.0.2:90", "53->172.30.0.3:53/udp"), named)
	want := []string{
		"~ 86-89->172.30.0.2:86-89 => 86-89->172.30.0.2:86-89",
		"~ 53->172.30.0.2:53/udp => 53->172.30.0.3:53/udp",
		"- 53->172.30.0.2:53", "- 80->172.30.0.2:80", "- 0.0.0.0:90->10.9.0.2:90",
		"+ 90->10.9.0.2:90", "+ 192.0.2.1:80->172.30.0.2:80",
	}
	before := b.kernel.Dump()
	changes, err = e.Diff(t.Context(), second...)
	require.NoError(t, err)
	require.Equal(t, want, linesOf(changes))
	require.Equal(t, before, b.kernel.Dump(), "Diff changes nothing")
	changes, err = e.Apply(t.Context(), second...)
	require.NoError(t, err)
	require.Equal(t, want, linesOf(changes))
	require.Equal(t, 4, updates, "one transaction, and three around it for the range that is replaced")
	require.Equal(t, nat.Collapse(second), nat.Collapse(must(e.Mappings(t.Context()))))
	requireConsistent(t, b, e)

	changes, err = e.Apply(t.Context())
	require.NoError(t, err)
	require.Len(t, changes, 5)
	require.Empty(t, elementsIn(b.kernel.Dump()))
	requireConsistent(t, b, e)
}

func TestApplyNothingMakesNoTable(t *testing.T) {
	e, b := openFake(t)
	changes, err := e.Apply(t.Context())
	require.NoError(t, err)
	require.Empty(t, changes)
	require.Empty(t, b.kernel.Dump())
}

func TestApplyExpiry(t *testing.T) {
	e, b := openFake(t)
	lease := func(d time.Duration) nat.Mapping {
		m := nattest.Mapping(t, "80->172.30.0.2:80")
		m.Expires = b.clock.Now().Add(d)
		return m
	}
	_, err := e.Apply(t.Context(), lease(time.Minute))
	require.NoError(t, err)
	changes, err := e.Diff(t.Context(), lease(time.Minute+time.Second))
	require.NoError(t, err)
	require.Empty(t, changes, "as near as the kernel can tell")
	for name, m := range map[string]nat.Mapping{
		"longer": lease(time.Minute + 1001*time.Millisecond), "shorter": lease(time.Minute - 1001*time.Millisecond),
		"for ever": nattest.Mapping(t, "80->172.30.0.2:80"),
	} {
		changes, err = e.Diff(t.Context(), m)
		require.NoError(t, err)
		require.Len(t, changes, 1, name)
	}
	// What is over counts as not given.
	changes, err = e.Diff(t.Context(), lease(0))
	require.NoError(t, err)
	require.Equal(t, []string{"- 80->172.30.0.2:80"}, linesOf(changes))
	changes, err = e.Apply(t.Context(), lease(-time.Hour), nattest.Mapping(t, "81->172.30.0.2:80"))
	require.NoError(t, err)
	require.Equal(t, []string{"- 80->172.30.0.2:80", "+ 81->172.30.0.2:80"}, linesOf(changes))
	requireConsistent(t, b, e)
}

func TestApplyRefuses(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "70->172.30.0.2:70")
	before := b.kernel.Dump()
	for reason, ms := range map[string][]nat.Mapping{
		"needs a frontend port": mapAll(t, "0->172.30.0.2:80"),
		"overlap":               mapAll(t, "80->172.30.0.2:80", "0.0.0.0:80->172.30.0.2:80"),
		"this host itself":      mapAll(t, "80->"+local4+":80"),
		"have one address":      mapAll(t, "172.30.0.9:80->172.30.0.9:81"),
	} {
		ms = append(mapAll(t, "71->172.30.0.2:71"), ms...)
		_, err := e.Apply(t.Context(), ms...)
		require.ErrorIs(t, err, nat.ErrInvalid, reason)
		require.ErrorContains(t, err, reason)
		_, err = e.Diff(t.Context(), ms...)
		require.ErrorIs(t, err, nat.ErrInvalid, reason)
	}
	require.Equal(t, before, b.kernel.Dump())
	require.Equal(t, []string{"70->172.30.0.2:70"}, publishedBy(e))
	requireConsistent(t, b, e)
}

// What is published already is not asked after: its address may have gone with its
// interface, and the file that lists it still has to be applicable.
func TestApplyKeepsWhatTheHostHasLost(t *testing.T) {
	e, b := openFake(t)
	keep := nattest.Mapping(t, local4+":80->172.30.0.2:80")
	_, err := e.Apply(t.Context(), keep)
	require.NoError(t, err)
	clear(b.host.routes)
	_, err = e.Apply(t.Context(), keep, nattest.Mapping(t, "81->172.30.0.2:80"))
	require.NoError(t, err)
	require.Len(t, publishedBy(e), 2)
}

// Applying again restores a table that others have deleted, also if nobody watches it.
func TestApplyAgainAfterFlush(t *testing.T) {
	for name, apply := range map[string]func(*Engine) error{
		"Apply": func(e *Engine) error {
			_, err := e.Apply(t.Context(), nattest.Mapping(t, "80->172.30.0.2:80"))
			return err
		},
		"ApplyState": func(e *Engine) error {
			_, err := e.ApplyState(t.Context(), nat.State{Mappings: []nat.Mapping{nattest.Mapping(t, "80->172.30.0.2:80")}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, b := openFake(t)
			require.NoError(t, apply(e))
			b.kernel.Flush()
			require.NoError(t, apply(e))
			requireConsistent(t, b, e)
			require.True(t, e.core.table.Present())
			reads := 0
			b.kernel.Hook(func(op string) error {
				if op == "Elements" {
					reads++
				}
				return nil
			})
			require.NoError(t, apply(e))
			require.NoError(t, apply(e))
			require.NoError(t, apply(e))
			require.LessOrEqual(t, reads, 1, "nobody has changed the ruleset")
			require.NoError(t, b.kernel.Conn().DeleteTable(DefaultTable))
			require.NoError(t, apply(e))
			b.kernel.Hook(nil)
			requireConsistent(t, b, e)
		})
	}
}
