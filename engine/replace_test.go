// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

func TestReplace(t *testing.T) {
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
	web := nattest.Mapping(t, "81-83->10.9.0.2:1081-1083")
	web.Name, web.Expires = "web", b.clock.Now().Add(time.Minute)
	want := []nat.Mapping{web, nattest.Mapping(t, "100->[fd00:30::2]:100"), nattest.Mapping(t, "0.0.0.0:90->172.30.0.3:90")}
	done, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, want...)
	require.NoError(t, err)
	require.Equal(t, want, done)
	require.Equal(t, 2, updates, "one transaction: no moment without a target; and one for the holes beneath what ends by itself")
	require.Equal(t, []string{
		"80->172.30.0.2:80",
		"81-83->10.9.0.2:1081-1083 web until 00:01:00",
		"100->[fd00:30::2]:100",
		"0.0.0.0:90->172.30.0.3:90",
	}, publishedBy(e))
	requireConsistent(t, b, e)

	_, err = e.Publish(t.Context(), nat.PublishOptions{Replace: true}, nattest.Mapping(t, "0->172.30.0.2:7"))
	require.NoError(t, err)
	require.Contains(t, publishedBy(e), "49153->172.30.0.2:7")
	// The time-out is the new one.
	again := nattest.Mapping(t, "81->10.9.0.2:1081")
	_, err = e.Publish(t.Context(), nat.PublishOptions{Replace: true}, again)
	require.NoError(t, err)
	b.clock.advance(time.Hour)
	require.Contains(t, publishedBy(e), "81->10.9.0.2:1081 web", "a name that is not given stays")
	require.NotContains(t, publishedBy(e), "82->10.9.0.2:1082 web until 00:01:00")
	requireConsistent(t, b, e)
}

// Giving a mapping what it has changes nothing but the time it has left.
func TestReplaceToTheSame(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "80->172.30.0.2:80", "81->172.30.0.2:80")
	before := b.kernel.Dump()
	_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, mapAll(t, "80->172.30.0.2:80", "81->172.30.0.2:80")...)
	require.NoError(t, err)
	require.Equal(t, before, b.kernel.Dump())
	requireConsistent(t, b, e)
}

// A frontend of one family whose backend goes to the other and comes back: its element
// goes from one map to another, in one transaction.
func TestReplaceToTheOtherFamily(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, local4+":80->172.30.0.2:80", "0.0.0.0:81->172.30.0.2:81", "[::]:81->[fd00:30::2]:81", "127.0.0.1:82->[fd00:30::2]:82/udp")
	before := b.kernel.Dump()
	updates := 0
	b.kernel.Hook(func(op string) error {
		if op == "Update" {
			updates++
		}
		return nil
	})
	there := mapAll(t, local4+":80->[fd00:30::3]:80", "0.0.0.0:81->[fd00:30::3]:81", "[::]:81->172.30.0.3:81", "127.0.0.1:82->172.30.0.3:82/udp")
	_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, there...)
	require.NoError(t, err)
	require.Equal(t, 1, updates)
	require.Equal(t, []string{
		`udp4_host { 127.0.0.1 . 82 : 172.30.0.3 . 82 }`,
		`tcp4_to6 { 0.0.0.0 . 81 : fd00:30::3 . 81 }`,
		`tcp4_to6 { 192.0.2.1 . 80 : fd00:30::3 . 80 }`,
		`tcp6_to4 { :: . 81 : 172.30.0.3 . 81 }`,
	}, elementsIn(b.kernel.Dump()))
	requireConsistent(t, b, e)
	back := mapAll(t, local4+":80->172.30.0.2:80", "0.0.0.0:81->172.30.0.2:81", "[::]:81->[fd00:30::2]:81", "127.0.0.1:82->[fd00:30::2]:82/udp")
	_, err = e.Apply(t.Context(), back...)
	require.NoError(t, err)
	require.Equal(t, 2, updates)
	require.Equal(t, before, b.kernel.Dump())
	requireConsistent(t, b, e)

	// What fails leaves it where it was.
	b.flows.hook = func(string) error { return errors.New("no flows today") }
	_, err = e.Publish(t.Context(), nat.PublishOptions{Replace: true}, nattest.Mapping(t, "127.0.0.1:82->172.30.0.3:82/udp"), nattest.Mapping(t, "[::]:81->172.30.0.3:81"), nattest.Mapping(t, "83->172.30.0.2:83/udp"))
	require.Error(t, err)
	require.Equal(t, before, b.kernel.Dump())
	requireConsistent(t, b, e)
}

// One that others wrote beside a mapping for any address has the element that the
// mapping would need, or the other way round.
func TestReplaceMeetsOverlapped(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "79->172.30.0.2:80")
	b.write(t, foreign("tcp4", "80", "172.30.0.2:80", ""), foreign("tcp4_to6", "0.0.0.0:80", "[fd00:30::2]:80", ""),
		foreign("tcp6_to4", "[::]:80", "172.30.0.2:80", ""))
	e = b.open(t)
	_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, nattest.Mapping(t, "0.0.0.0:80->172.30.0.3:80"))
	var conflict *nat.ConflictError
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, nattest.Mapping(t, "80->172.30.0.2:80"), conflict.Have)
	_, err = e.Publish(t.Context(), nat.PublishOptions{Replace: true}, nattest.Mapping(t, "80->[fd00:30::3]:80")) // which nothing has
	require.NoError(t, err)
	requireConsistent(t, b, e)
	_, err = e.Publish(t.Context(), nat.PublishOptions{Replace: true}, nattest.Mapping(t, "[::]:80->[fd00:30::4]:80"))
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, nattest.Mapping(t, "80->[fd00:30::3]:80"), conflict.Have)
	_, err = e.Publish(t.Context(), nat.PublishOptions{Replace: true}, nattest.Mapping(t, "0.0.0.0:80->172.30.0.3:80"))
	require.NoError(t, err)
	require.Equal(t, []string{
		"79->172.30.0.2:80", "80->[fd00:30::3]:80", "0.0.0.0:80->172.30.0.3:80", "[::]:80->172.30.0.2:80",
	}, publishedBy(e))
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
	var crossing bool
	mapping := func(frontend, name string) nat.Mapping {
		backend := "172.30.0.2:80"
		if (frontend[0] == '[') != crossing {
			backend = "[fd00:30::2]:80"
		}
		m := nattest.Mapping(t, frontend+"->"+backend)
		m.Name = name
		return m
	}
	for i := range 2 * len(all) {
		first := all[i/2]
		crossing = i%2 == 1 // the backends are of the other family, but that of any
		for _, second := range all {
			e, b := openFake(t)
			have, want := mapping(first, "holder"), mapping(second, "newcomer")
			_, err := e.Publish(t.Context(), nat.PublishOptions{}, have)
			require.NoError(t, err)
			before := b.kernel.Dump()
			for name, how := range map[string]nat.PublishOptions{"publish": {}, "replace": {Replace: true}} {
				if name == "replace" && first == second {
					continue // which gives it to the newcomer
				}
				_, err = e.Publish(t.Context(), how, mapping("7000", ""), want)
				if !slices.Contains(excluded[first], second) {
					require.NoError(t, err, "%s beside %s", second, first)
					_, err = e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{mapping("7000", ""), want}})
					require.NoError(t, err)
					require.Equal(t, elementsIn(before), elementsIn(b.kernel.Dump()))
					continue
				}
				require.ErrorIs(t, err, nat.ErrConflict, "%s %s over %s", name, second, first)
				var conflict *nat.ConflictError
				require.ErrorAs(t, err, &conflict)
				require.Equal(t, nat.ConflictError{Want: want, Have: have}, *conflict)
				require.ErrorContains(t, err, `is published as `+have.String()+` by "holder"`)
				require.Equal(t, before, b.kernel.Dump())
			}
			udp := want
			udp.Proto = nat.UDP
			_, err = e.Publish(t.Context(), nat.PublishOptions{}, udp)
			require.NoError(t, err, "another protocol is another world")
			requireConsistent(t, b, e)
		}
	}
}

// One port of a range in the way: the error names the range that was asked for, as it was, and the
// mapping in the way, with what leads on beside it.
func TestConflictWithinRange(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "8005->172.30.0.2:80")
	named := nattest.Mapping(t, "7000-7009->172.30.0.2:9000-9009")
	named.Name = "games"
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, named)
	require.NoError(t, err)
	before := b.kernel.Dump()
	const one, many = "tcp 8005 is published as 8005->172.30.0.2:80", `tcp 7000-7009 is published as 7000-7009->172.30.0.2:9000-9009 by "games"`
	for _, c := range []struct {
		want, have, says string
		beside           []string
	}{
		{"8000-8009->172.30.0.3:8000-8009", "8005->172.30.0.2:80", "publish tcp 8000-8009: " + one, nil},
		{"8000-8009->172.30.0.3:9000-9009", "8005->172.30.0.2:80", "publish tcp 8000-8009: " + one, nil},
		{"8000-8009->172.30.0.3:9000-9009", "8005->172.30.0.2:80", "publish tcp 1 and 1 more: tcp 8000-8009: " + one, []string{"1->172.30.0.2:1"}},
		{"8005->172.30.0.3:80", "8005->172.30.0.2:80", "publish tcp 1 and 1 more: " + one, []string{"1->172.30.0.2:1"}},
		{"7004->172.30.0.3:80", "7000-7009->172.30.0.2:9000-9009", "publish tcp 7004: " + many, nil},
		{"192.0.2.1:6990-7005->172.30.0.3:90-105", "7000-7009->172.30.0.2:9000-9009", "publish tcp 192.0.2.1:6990-7005: " + many, nil},
		{"6990-7005->172.30.0.3:6990-7005", "7000-7009->172.30.0.2:9000-9009", "publish tcp 6990-7005: " + many, nil},
	} {
		want, have := nattest.Mapping(t, c.want), nattest.Mapping(t, c.have)
		if have.More != 0 {
			have.Name = "games"
		}
		_, err := e.Publish(t.Context(), nat.PublishOptions{}, append(mapAll(t, c.beside...), want)...)
		var conflict *nat.ConflictError
		require.ErrorAs(t, err, &conflict)
		require.Equal(t, nat.ConflictError{Want: want, Have: have}, *conflict)
		require.EqualError(t, err, c.says)
		require.Equal(t, before, b.kernel.Dump())
	}
	requireConsistent(t, b, e)
}
