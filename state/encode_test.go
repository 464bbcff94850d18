// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// many returns 60,000 mappings that make no range.
func many(tb testing.TB, name string) []nat.Mapping {
	tb.Helper()
	ms := make([]nat.Mapping, 60000)
	for i := range ms {
		ms[i] = mapped(tb, fmt.Sprintf("%d->172.17.%d.%d:80", i+1, i>>8, i&255))
		ms[i].Name = name
	}
	return ms
}

func encode(tb testing.TB, ms ...nat.Mapping) string {
	tb.Helper()
	var b strings.Builder
	require.NoError(tb, Encode(&b, nat.State{Mappings: ms}))
	return b.String()
}

func TestEncode(t *testing.T) {
	require.Equal(t, "# nftnat, complete with \"...\" as its last line\nversion: 1\nmappings: []\n...\n", encode(t))

	web := mapped(t, "8080->172.17.0.2:80")
	quiet, until := mapped(t, "[::]:1->[fd00::2]:1"), mapped(t, "2->1.2.3.4:2")
	quiet.NoProxy = true
	until.Expires = time.Date(2027, 1, 1, 0, 0, 0, 5000, time.UTC)
	ms := []nat.Mapping{named(t), web, mapped(t, "9000->1.2.3.4:1"), quiet, mapped(t, "9001->1.2.3.4:2"), until,
		mapped(t, "[2001:db8::1]:8000-8009->[fd00::2]:9000-9009/udp"), mapped(t, "4->fd00::2")}
	before := slices.Clone(ms)
	require.Equal(t, endPromise+`
version: 1
mappings:
  - {mapping: "2->1.2.3.4:2", expires: 2027-01-01T00:00:00.000005Z}
  - 4->[fd00::2]:4
  - 8080->172.17.0.2:80
  - 9000-9001->1.2.3.4:1-2
  - {mapping: "[::]:1->[fd00::2]:1", proxy: false}
  - {mapping: "53->172.17.0.2:53/udp", name: dns, proxy: false, expires: 2027-01-01T00:00:00Z}
  - "[2001:db8::1]:8000-8009->[fd00::2]:9000-9009/udp"
...
`, encode(t, ms...))
	require.Equal(t, before, ms, "the argument is left alone")
}

func TestEncodeNames(t *testing.T) {
	for name, want := range map[string]string{
		"web":              `web`,
		"yes":              `"yes"`,
		"5":                `"5"`,
		"a b":              `"a b"`,
		"a: b #c, {d}":     `"a: b #c, {d}"`,
		`C:\n`:             `"C:\\n"`,
		"Zoë":              `"Zoë"`,
		"a\u2028b\u00a0c":  `"a\u2028b\u00A0c"`,
		"a\ufeff":          `"a\uFEFF"`,
		"a\U000e0001":      `"a\U000E0001"`,
		"'":                `"'"`,
		"\ufffd":           "\"\ufffd\"",
		"%TAG&*!|>@`-?:~=": "\"%TAG&*!|>@`-?:~=\"",
	} {
		m := mapped(t, "80->1.2.3.4:80")
		m.Name = name
		require.NoError(t, m.Validate())
		text := encode(t, m)
		require.Equal(t, endPromise+"\nversion: 1\nmappings:\n  - {mapping: \"80->1.2.3.4:80\", name: "+want+"}\n...\n", text)
		f, err := Decode(strings.NewReader(text), "f")
		require.NoError(t, err)
		require.Equal(t, []nat.Mapping{m}, f.Mappings)
	}
}

func TestEncodeRefuses(t *testing.T) {
	for _, ms := range [][]nat.Mapping{
		{{}},
		{mapped(t, "0->1.2.3.4:80")},
		{mapped(t, "192.0.2.1:0->1.2.3.4:80")},
		{mapped(t, "80->1.2.3.4"), mapped(t, "80->1.2.3.5")},
		{mapped(t, "80->127.0.0.1")},
	} {
		var b strings.Builder
		err := Encode(&b, nat.State{Mappings: ms})
		require.ErrorIs(t, err, nat.ErrInvalid)
		require.ErrorContains(t, err, "encode state: ")
		require.Zero(t, b.Len(), "nothing is begun")
	}
}

// full takes n bytes, then no more.
type full struct{ n int }

var errFull = errors.New("full")

func (w *full) Write(p []byte) (int, error) {
	if w.n -= len(p); w.n < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestEncodeWriteErrors(t *testing.T) {
	ms := many(t, "")
	for _, room := range []int{0, 100, 1 << 20} {
		err := Encode(&full{n: room}, nat.State{Mappings: ms})
		require.ErrorIs(t, err, errFull)
		require.EqualError(t, err, "write state: full")
	}
	require.NoError(t, Encode(&full{n: 1 << 22}, nat.State{Mappings: ms}))
}

// randomMappings returns valid mappings that do not overlap, in random order.
func randomMappings(r *rand.Rand) []nat.Mapping {
	one := func(of ...string) string { return of[r.IntN(len(of))] }
	var ms []nat.Mapping
	for range r.IntN(20) {
		m := nat.Mapping{Proto: nat.TCP, NoProxy: r.IntN(5) == 0}
		if r.IntN(2) == 0 {
			m.Proto = nat.UDP
		}
		host, back := one("", "0.0.0.0", "192.0.2.1"), "172.17.0.2"
		if r.IntN(2) == 0 {
			host, back = one("", "::", "2001:db8::1"), one("fd00::2", "fd00::")
		}
		var front netip.Addr
		if host != "" {
			front = netip.MustParseAddr(host)
		}
		m.Frontend = netip.AddrPortFrom(front, uint16(1+r.IntN(60)))
		m.Backend = netip.AddrPortFrom(netip.MustParseAddr(back), uint16(1+r.IntN(3)))
		m.More = uint16(r.IntN(3))
		if r.IntN(4) == 0 {
			m.Name = randomName(r)
		}
		if r.IntN(5) == 0 {
			m.Expires = time.Unix(r.Int64N(1<<37), r.Int64N(3)).UTC()
		}
		if with := append(slices.Clone(ms), m); nat.ValidateAll(with...) == nil {
			ms = with
		}
	}
	return ms
}

// randomName returns a name of characters that mean something to YAML, and of
// some that are not printed.
func randomName(r *rand.Rand) string {
	const special = "abnyNY0159 .,:;#'`|>{}&*!%@?-_~=<\\/()+^$\u00a0\u00ad\u2028\u2029\ufeff\ufffd\ue000\U0001f600\U000e0001éλ"
	runes := []rune(special)
	name := make([]rune, r.IntN(15))
	for i := range name {
		name[i] = runes[r.IntN(len(runes))]
	}
	return string(name)
}

func TestDecodeUndoesEncode(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		ms := randomMappings(r)
		text := encode(t, ms...)
		f, err := Decode(strings.NewReader(text), "f")
		require.NoError(t, err, text)
		require.Equal(t, nat.Collapse(ms), f.Mappings, text)
		require.Equal(t, text, encode(t, f.Mappings...), "equal contents make equal files")
	}
}

func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 30 {
		text, err := encodeFile(nat.StoredState{State: randomState(r)})
		require.NoError(f, err)
		f.Add(string(text))
		f.Add(encode(f, randomMappings(r)...))
		f.Add(encodeState(f, randomState(r)))
	}
	for _, s := range []string{"{mappings: [80->1.2.3.4, {mapping: '81->1.2.3.4', name: \"\\u2028\"}]}", "mappings:\n- &a |\n  80->x\n- *a\n- ? x\n", "mappings: &a [*a]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		file, err := Decode(strings.NewReader(text), "f")
		if err != nil {
			var line *LineError
			if !errors.Is(err, nat.ErrInvalid) || !errors.As(err, &line) || line.Line < 1 || strings.ContainsAny(err.Error(), "\r\n") {
				t.Fatalf("%q: %q", text, err)
			}
			return
		}
		var b strings.Builder
		if err := Encode(&b, file); err != nil {
			t.Fatalf("%q cannot be written again: %v", text, err)
		}
		again, err := Decode(strings.NewReader(b.String()), "f")
		var twice strings.Builder
		if err == nil {
			err = Encode(&twice, again)
		}
		if err != nil || !slices.Equal(again.Mappings, nat.Collapse(file.Mappings)) || twice.String() != b.String() {
			t.Fatalf("%q became %q: %v", text, b.String(), err)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	for name, ms := range map[string][]nat.Mapping{"plain": many(b, ""), "objects": many(b, "web")} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := Encode(io.Discard, nat.State{Mappings: ms}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
