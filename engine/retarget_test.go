// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRetarget(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "80-82->172.30.0.2:80-82", "0.0.0.0:90->172.30.0.2:90", "100->172.30.0.2:100")
	updates := 0
	b.kernel.Hook(func(op string) error {
		if op == "Update" || op == "Replace" {
			updates++
		}
		return nil
	})
	// Some are there and some are not; one goes to the other family.
	web := mapped(t, "81-83->10.9.0.2:1081-1083")
	web.Name, web.Expires = "web", b.clock.Now().Add(time.Minute)
	want := []Mapping{web, mapped(t, "100->[fd00:30::2]:100"), mapped(t, "0.0.0.0:90->172.30.0.3:90")}
	done, err := e.Retarget(want...)
	require.NoError(t, err)
	require.Equal(t, want, done)
	require.Equal(t, 1, updates, "one transaction: no moment without a target")
	require.Equal(t, []string{
		"80->172.30.0.2:80",
		"81-83->10.9.0.2:1081-1083 web until 00:01:00",
		"100->[fd00:30::2]:100",
		"0.0.0.0:90->172.30.0.3:90",
	}, publishedBy(e))
	requireConsistent(t, b, e)

	_, err = e.Retarget(mapped(t, "0->172.30.0.2:7"))
	require.NoError(t, err)
	require.Contains(t, publishedBy(e), "49153->172.30.0.2:7")
	// The time-out is the new one.
	again := mapped(t, "81->10.9.0.2:1081")
	_, err = e.Retarget(again)
	require.NoError(t, err)
	b.clock.advance(time.Hour)
	require.Contains(t, publishedBy(e), "81->10.9.0.2:1081")
	require.NotContains(t, publishedBy(e), "82->10.9.0.2:1082 web until 00:01:00")
	requireConsistent(t, b, e)
}

// Giving a mapping what it has changes nothing but the time it has left.
func TestRetargetToTheSame(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "80->172.30.0.2:80", "81->172.30.0.2:80")
	before := b.kernel.Dump()
	_, err := e.Retarget(mapAll(t, "80->172.30.0.2:80", "81->172.30.0.2:80")...)
	require.NoError(t, err)
	require.Equal(t, before, b.kernel.Dump())
	requireConsistent(t, b, e)
}

func TestConflictsNameTheHolder(t *testing.T) {
	any, all4, all6 := "80", "0.0.0.0:80", "[::]:80"
	one4, two4, one6 := local4+":80", otherLocal4+":80", "["+local6+"]:80"
	loop4, loop6 := "127.0.0.1:80", "[::1]:80"
	all := []string{any, all4, all6, one4, two4, one6, loop4, loop6}
	excluded := map[string][]string{
		any:   all,
		all4:  {any, all4, one4, two4, loop4},
		all6:  {any, all6, one6, loop6},
		one4:  {any, all4, one4},
		two4:  {any, all4, two4},
		one6:  {any, all6, one6},
		loop4: {any, all4, loop4},
		loop6: {any, all6, loop6},
	}
	mapping := func(frontend, name string) Mapping {
		backend := "172.30.0.2:80"
		if frontend[0] == '[' {
			backend = "[fd00:30::2]:80"
		}
		m := mapped(t, frontend+"->"+backend)
		m.Name = name
		return m
	}
	for _, first := range all {
		for _, second := range all {
			e, b := openFake(t)
			have, want := mapping(first, "holder"), mapping(second, "newcomer")
			_, err := e.Publish(have)
			require.NoError(t, err)
			before := b.kernel.Dump()
			for name, call := range map[string]func(...Mapping) ([]Mapping, error){"publish": e.Publish, "retarget": e.Retarget} {
				if name == "retarget" && first == second {
					continue // which gives it to the newcomer
				}
				_, err = call(mapping("7000", ""), want)
				if !slices.Contains(excluded[first], second) {
					require.NoError(t, err, "%s beside %s", second, first)
					_, err = e.Unpublish(mapping("7000", ""), want)
					require.NoError(t, err)
					require.Equal(t, elementsIn(before), elementsIn(b.kernel.Dump()))
					continue
				}
				require.ErrorIs(t, err, ErrConflict, "%s %s over %s", name, second, first)
				var conflict *ConflictError
				require.ErrorAs(t, err, &conflict)
				require.Equal(t, ConflictError{Want: want, Have: have}, *conflict)
				require.ErrorContains(t, err, `is published as `+have.String()+` by "holder"`)
				require.Equal(t, before, b.kernel.Dump())
			}
			udp := want
			udp.Proto = UDP
			_, err = e.Publish(udp)
			require.NoError(t, err, "another protocol is another world")
			requireConsistent(t, b, e)
		}
	}
}

// One port of a range in the way: the error names that port.
func TestConflictWithinRange(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "8005->172.30.0.2:80")
	_, err := e.Publish(mapped(t, "8000-8009->172.30.0.3:8000-8009"))
	var conflict *ConflictError
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, ConflictError{Want: mapped(t, "8005->172.30.0.3:8005"), Have: mapped(t, "8005->172.30.0.2:80")}, *conflict)
	require.EqualError(t, err, "publish tcp 8000-8009: tcp 8005 is published as 8005->172.30.0.2:80")
	requireConsistent(t, b, e)
}
