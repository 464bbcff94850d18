// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

func timeZero() time.Time { return time.Date(2026, 5, 4, 3, 2, 1, 987654321, time.UTC) }

type bodyTest struct{ name, body, want string }

// malformedBodies are refused before anything is looked at as a mapping.
func malformedBodies() []bodyTest {
	return []bodyTest{
		{"empty", "", "it ends too early"},
		{"spaces", " \n", "it ends too early"},
		{"null", "null", "it is not an array of mappings"},
		{"an object", `{"proto":"tcp"}`, "it is not an array of mappings"},
		{"a number", "1", "it is not an array of mappings"},
		{"not JSON", "yes", "invalid character 'y' looking for beginning of value"},
		{"not closed", "[", "it ends too early"},
		{"not closed after a mapping", `[{"proto":"tcp","backend":"10.0.0.1:80"}`, "it ends too early"},
		{"a comma at the end", `[{"proto":"tcp","backend":"10.0.0.1:80"},]`, "mapping 1: invalid character ']'"},
		{"no comma", `[{"proto":"tcp","backend":"10.0.0.1:80"}{}]`, "mapping 1: "},
		{"the wrong bracket", "[}", "invalid character '}'"},
		{"trailing text", "[] x", "there is more after the array"},
		{"two arrays", "[][]", "there is more after the array"},
		{"trailing NUL", "[]\x00", "there is more after the array"},
		{"a byte order mark", "\ufeff[]", "invalid character 'ï'"},
		{"UTF-16", "[\x00]\x00", "invalid character '\\x00'"},
		{"not UTF-8", `[{"name":"` + "\xff" + `"}]`, "it is not UTF-8"},
		{"a string", `["8080->10.0.0.1:80"]`, "mapping 0: a string where an object belongs"},
		{"an array", `[[]]`, "mapping 0: a array where an object belongs"},
		{"an unknown field", `[{"prot":"tcp"}]`, `mapping 0: unknown field "prot"`},
		{"a field in capitals", `[{"Proto":"tcp"}]`, `mapping 0: unknown field "Proto"`},
		{"a field written with an escape", `[{"\u0070roto":"tcp"}]`, `mapping 0: unknown field "\\u0070roto"`},
		{"a field twice", `[{"port":1,"host":"","port":2}]`, `mapping 0: field "port" is given twice`},
		{"a field of the wrong type", `[{"port":"80"}]`, "mapping 0: port cannot be a string"},
		{"a fraction", `[{"port":80.5}]`, "mapping 0: port cannot be a number 80.5"},
		{"an astronomical number", `[{"port":1e99}]`, "mapping 0: port cannot be a number 1e99"},
		{"an object in a field", `[{"proxy":{"a":[]}}]`, "mapping 0: proxy cannot be a object"},
		{"deep arrays", strings.Repeat("[", 100000), "exceeded max depth"},
		{"deep objects", "[" + strings.Repeat(`{"proxy":`, 100000), "exceeded max depth"},
		{"deep and closed", "[{\"proxy\":" + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + "}]", "proxy cannot be a array"},
	}
}

func TestDecodeMalformed(t *testing.T) {
	for _, tt := range malformedBodies() {
		t.Run(tt.name, func(t *testing.T) {
			_, err := decodeRequests([]byte(tt.body), timeZero())
			var p *Problem
			require.ErrorAs(t, err, &p)
			require.Equal(t, 400, p.Status)
			require.ErrorIs(t, err, nat.ErrInvalid)
			require.ErrorContains(t, err, "read body: ")
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestDecodeInvalid(t *testing.T) {
	tests := []struct{ name, item, want string }{
		{"null", `null`, `unknown protocol "": tcp or udp`},
		{"nothing", `{}`, `unknown protocol "": tcp or udp`},
		{"protocol", `{"proto":"sctp","backend":"10.0.0.1:80"}`, `unknown protocol "sctp": tcp or udp`},
		{"no backend", `{"proto":"tcp","port":80}`, `invalid backend "": it is empty`},
		{"no port at all", `{"proto":"tcp","backend":"10.0.0.1"}`, `invalid backend "10.0.0.1": give it a port, since frontend 0 has none to share`},
		{"a backend range", `{"proto":"tcp","backend":"10.0.0.1:80-81"}`, `invalid backend "10.0.0.1:80-81": a range is asked for by last or count`},
		{"a large port", `{"proto":"tcp","port":65536,"backend":"10.0.0.1:80"}`, `invalid port "65536": it is not 0 to 65535`},
		{"a negative port", `{"proto":"tcp","port":-1,"backend":"10.0.0.1:80"}`, `invalid port "-1": it is not 0 to 65535`},
		{"a name as host", `{"proto":"tcp","host":"localhost","port":80,"backend":"10.0.0.1:80"}`, `invalid frontend "localhost:80": "localhost" is not an IP address`},
		{"a port in the host", `{"proto":"tcp","host":"10.0.0.2:81","port":80,"backend":"10.0.0.1:80"}`, `"10.0.0.2:81" is not an IP address`},
		{"a host in brackets", `{"proto":"tcp","host":"[::1]","port":80,"backend":"[fd00::1]:80"}`, `invalid frontend "[[::1]]:80"`},
		{"brackets that close early", `{"proto":"tcp","host":"::1]:81-90","port":80,"backend":"[fd00::1]:80"}`, `invalid frontend`},
		{"a zone", `{"proto":"tcp","host":"fe80::1%eth0","port":80,"backend":"[fd00::1]:80"}`, "zone"},
		{"count 0", `{"proto":"tcp","port":80,"backend":"10.0.0.1:80","count":0}`, `invalid count "0": it is not 1 to 65535`},
		{"a large count", `{"proto":"tcp","port":80,"backend":"10.0.0.1:80","count":65536}`, `invalid count "65536"`},
		{"last and count", `{"proto":"tcp","port":80,"backend":"10.0.0.1:80","last":81,"count":2}`, `invalid last "81": there is count as well`},
		{"last without a first", `{"proto":"tcp","backend":"10.0.0.1:80","last":81}`, `invalid last "81": without a first port a range is asked for by count`},
		{"last before the first", `{"proto":"tcp","port":80,"backend":"10.0.0.1:80","last":79}`, `invalid last "79": it is not 80 to 65535`},
		{"a large last", `{"proto":"tcp","port":80,"backend":"10.0.0.1:80","last":65616}`, `invalid last "65616": it is not 80 to 65535`},
		{"a negative count", `{"proto":"tcp","port":80,"backend":"10.0.0.1:80","count":-1}`, `invalid count "-1"`},
		{"ttl and expires", `{"proto":"tcp","port":80,"backend":"10.0.0.1:80","ttl":"1h","expires":"2999-01-01T00:00:00Z"}`, `invalid ttl "1h": there is expires as well`},
		{"ttl in words", `{"proto":"tcp","port":80,"backend":"10.0.0.1:80","ttl":"an hour"}`, `invalid ttl "an hour": it is not written like`},
		{"no ttl", `{"proto":"tcp","port":80,"backend":"10.0.0.1:80","ttl":""}`, `invalid ttl "": it is not written like`},
		{"ttl 0", `{"proto":"tcp","port":80,"backend":"10.0.0.1:80","ttl":"0s"}`, `invalid ttl "0s": it must be more than 0`},
		{"ttl below 0", `{"proto":"tcp","port":80,"backend":"10.0.0.1:80","ttl":"-1s"}`, `it is not written like`},
		{"a date", `{"proto":"tcp","port":80,"backend":"10.0.0.1:80","expires":"2999-01-01"}`, `invalid expires "2999-01-01": it is no time of RFC 3339`},
		{"the zero time", `{"proto":"tcp","port":80,"backend":"10.0.0.1:80","expires":"0001-01-01T00:00:00.0009Z"}`, `invalid expires "0001-01-01T00:00:00.0009Z": it is over`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := decodeRequests([]byte(`[{"proto":"tcp","backend":"10.0.0.1:80"},`+tt.item+`]`), timeZero())
			var p *Problem
			require.ErrorAs(t, err, &p)
			require.Equal(t, 422, p.Status)
			require.ErrorIs(t, err, nat.ErrInvalid)
			require.ErrorContains(t, err, "mapping 1: ")
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestDecode(t *testing.T) {
	tests := []struct {
		item   string
		want   string // as text
		change func(*nat.Mapping)
	}{
		{`{"proto":"tcp","backend":"10.0.0.1:80"}`, "0->10.0.0.1:80", nil},
		{`{"proto":"tcp","backend":"10.0.0.1:80","port":0,"count":3}`, "0->10.0.0.1:80-82", nil},
		{`{"proto":"udp","backend":"10.0.0.1","port":53}`, "53->10.0.0.1:53/udp", nil},
		{`{"proto":"tcp","host":"192.0.2.1","port":8000,"backend":"10.0.0.1:9000","count":10}`, "192.0.2.1:8000-8009->10.0.0.1:9000-9009", nil},
		{`{"proto":"tcp","host":"192.0.2.1","backend":"10.0.0.1:80"}`, "192.0.2.1:0->10.0.0.1:80", nil},
		{`{"proto":"tcp","host":"::","port":80,"backend":"[fd00::1]:80"}`, "[::]:80->[fd00::1]:80", nil},
		{`{"proto":"tcp","host":"::ffff:192.0.2.1","port":80,"backend":"10.0.0.1:80"}`, "192.0.2.1:80->10.0.0.1:80", nil},
		{`{"proto":"tcp","port":1,"backend":"10.0.0.1:1","count":65535}`, "1-65535->10.0.0.1:1-65535", nil},
		{`{"proto":"udp","port":10000,"last":60000,"backend":"10.0.0.1"}`, "10000-60000->10.0.0.1:10000-60000/udp", nil},
		{`{"proto":"tcp","port":8000,"last":8000,"backend":"10.0.0.1:9000"}`, "8000->10.0.0.1:9000", nil},
		{`{"proto":"tcp","port":80,"backend":"10.0.0.1:80","host":null,"name":null,"proxy":null,"expires":null,"count":null,"ttl":null}`,
			"80->10.0.0.1:80", nil},
		{`{"proto":"tcp","port":80,"backend":"10.0.0.1:80","proxy":true}`, "80->10.0.0.1:80", nil},
		{`{"proto":"tcp","port":80,"backend":"10.0.0.1:80","proxy":false,"name":"a,b:{\"c\\"}`, "80->10.0.0.1:80",
			func(m *nat.Mapping) { m.NoProxy, m.Name = true, `a,b:{"c\` }},
		{`{"proto":"tcp","port":80,"backend":"10.0.0.1:80","ttl":"1h"}`, "80->10.0.0.1:80",
			func(m *nat.Mapping) { m.Expires = time.Date(2026, 5, 4, 4, 2, 1, 987e6, time.UTC) }},
		{`{"proto":"tcp","port":80,"backend":"10.0.0.1:80","expires":"2027-01-01T00:00:00.9876543+02:00"}`, "80->10.0.0.1:80",
			func(m *nat.Mapping) { m.Expires = time.Date(2026, 12, 31, 22, 0, 0, 987e6, time.UTC) }},
	}
	for _, tt := range tests {
		t.Run(tt.item, func(t *testing.T) {
			want := parse(t, tt.want)
			if tt.change != nil {
				tt.change(&want)
			}
			got, err := decodeRequests([]byte(" [ "+tt.item+" , "+tt.item+" ]\n"), timeZero())
			require.NoError(t, err)
			require.Equal(t, []nat.Mapping{want, want}, got)
		})
	}
	none, err := decodeRequests([]byte("[]"), timeZero())
	require.NoError(t, err)
	require.Empty(t, none)
}

// What is asked for comes out as it went in.
func TestRequestRoundTrip(t *testing.T) {
	for _, text := range []string{
		"0->10.0.0.1:80", "0->10.0.0.1:80-89", "8080->10.0.0.1:80", "1-65535->10.0.0.1:1-65535/udp",
		"192.0.2.1:0->10.0.0.1:80", "[::1]:8000-8009->[fd00::1]:9000-9009", "0.0.0.0:80->10.0.0.1:80",
	} {
		for _, noProxy := range []bool{false, true} {
			for _, expires := range []time.Time{{}, timeZero().Truncate(time.Millisecond)} {
				m := parse(t, text)
				m.Name, m.NoProxy, m.Expires = "näme", noProxy, expires
				r := requestOf(m)
				got, err := r.mapping(timeZero())
				require.NoError(t, err)
				require.Equal(t, m, got)
			}
		}
	}
}

// The names of the fields and the fields do not go separate ways.
func TestFieldsAreAllKnown(t *testing.T) {
	require.Equal(t, requestFields(), fieldNames(request{}))
	require.Equal(t, networkFields(), fieldNames(networkRequest{}))
	require.Equal(t, attachFields(), fieldNames(attachRequest{}))
	require.Equal(t, []string{"networks", "endpoints", "mappings"}, fieldNames(state{}))
}

func TestOneLine(t *testing.T) {
	require.Equal(t, "a; b", problemOf(errors.Join(errors.New("a"), errors.New("b"))).Detail)
}
