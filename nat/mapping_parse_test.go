// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

func TestParseMapping(t *testing.T) {
	for _, tt := range []struct{ proto, frontend, backend, want string }{
		{"tcp", "8080", "172.17.0.2:80", "8080->172.17.0.2:80"},
		{"tcp", "8080", "172.17.0.2", "8080->172.17.0.2:8080"},
		{"udp", "53", "fd00::2", "53->[fd00::2]:53/udp"},
		{"udp", "53", "[fd00::2]", "53->[fd00::2]:53/udp"},
		{"udp", "53", "[fd00::2]:5353", "53->[fd00::2]:5353/udp"},
		{"tcp", "8000-8009", "172.17.0.2", "8000-8009->172.17.0.2:8000-8009"},
		{"tcp", "8000-8009", "172.17.0.2:9000-9009", "8000-8009->172.17.0.2:9000-9009"},
		{"tcp", "192.0.2.1:8080", "172.17.0.2:80", "192.0.2.1:8080->172.17.0.2:80"},
		{"tcp", "192.0.2.1:8000-8009", "172.17.0.2", "192.0.2.1:8000-8009->172.17.0.2:8000-8009"},
		{"tcp", "[2001:db8::1]:8080", "fd00::2", "[2001:db8::1]:8080->[fd00::2]:8080"},
		{"tcp", "[2001:DB8::1]:8000-8009", "fd00::2", "[2001:db8::1]:8000-8009->[fd00::2]:8000-8009"},
		{"tcp", "0", "172.17.0.2:80", "0->172.17.0.2:80"},
		{"tcp", "0", "172.17.0.2:80-89", "0->172.17.0.2:80-89"},
		{"tcp", "192.0.2.1:0", "172.17.0.2:80", "192.0.2.1:0->172.17.0.2:80"},
		{"tcp", "[2001:db8::1]:0", "[fd00::2]:80-89", "[2001:db8::1]:0->[fd00::2]:80-89"},
		{"tcp", "8080-8080", "172.17.0.2:80", "8080->172.17.0.2:80"},
		{"tcp", "[::ffff:192.0.2.1]:80", "::ffff:172.17.0.2", "192.0.2.1:80->172.17.0.2:80"},
		{"tcp", "[::ffff:0.0.0.0]:80", "172.17.0.2", "0.0.0.0:80->172.17.0.2:80"},
		{"tcp", "1-65535", "172.17.0.2", "1-65535->172.17.0.2:1-65535"},
		{"tcp", "80", "[fd00:17::2:80]", "80->[fd00:17::2:80]:80"},
		{"tcp", "80", "fd00:17:0:0:0:0:0:80", "80->[fd00:17::80]:80"},
		{"tcp", "80", "fd00:17::80", "80->[fd00:17::80]:80"},
		{"tcp", "80", "fd00:17::2:abcd", "80->[fd00:17::2:abcd]:80"},
		{"tcp", "80", "fd00:17::2:0080", "80->[fd00:17::2:80]:80"},
		{"tcp", "80", "fd00:17::2:0", "80->[fd00:17::2:0]:80"},
	} {
		m, err := nat.ParseMapping(tt.proto, tt.frontend, tt.backend)
		require.NoError(t, err)
		require.Equal(t, tt.want, m.String())
		require.Equal(t, nat.Mapping{Proto: m.Proto, Frontend: m.Frontend, Backend: m.Backend, More: m.More}, m)
	}
}

func TestParseMappingErrors(t *testing.T) {
	const back = "172.17.0.2:80"
	for _, tt := range []struct{ proto, frontend, backend, want string }{
		{"sctp", "80", back, `unknown protocol "sctp": tcp or udp`},
		{"tcp", "", back, `invalid frontend "": it is empty`},
		{"tcp", "8080-8000", back, `invalid frontend "8080-8000": the range ends before it begins`},
		{"tcp", "65536", back, `invalid frontend "65536": ports end at 65535`},
		{"tcp", "99999999999999999999999999", back, `invalid frontend "99999999999999999999999999": ports end at 65535`},
		{"tcp", "-1", back, `invalid frontend "-1": a range is written FIRST-LAST`},
		{"tcp", "80-", back, `invalid frontend "80-": a range is written FIRST-LAST`},
		{"tcp", "-", back, `invalid frontend "-": a range is written FIRST-LAST`},
		{"tcp", "80-90-100", back, `invalid frontend "80-90-100": port "90-100" is not a number`},
		{"tcp", "+80", back, `invalid frontend "+80": port "+80" is not a number`},
		{"tcp", " 80", back, `invalid frontend " 80": port " 80" is not a number`},
		{"tcp", "８０", back, `invalid frontend "８０": port "８０" is not a number`},
		{"tcp", "http", back, `invalid frontend "http": port "http" is not a number`},
		{"tcp", "080", back, `invalid frontend "080": port "080" has a leading zero`},
		{"tcp", "00", back, `invalid frontend "00": ports begin at 1`},
		{"tcp", "0-9", back, `invalid frontend "0-9": ports begin at 1`},
		{"tcp", "80:90", back, `invalid frontend "80:90": "80" is not an IP address`},
		{"tcp", ":80", back, `invalid frontend ":80": the address is missing`},
		{"tcp", "1.2.3:80", back, `invalid frontend "1.2.3:80": "1.2.3" is not an IP address`},
		{"tcp", "01.2.3.4:80", back, `invalid frontend "01.2.3.4:80": "01.2.3.4" is not an IP address`},
		{"tcp", "1.2.3.4:80x", back, `invalid frontend "1.2.3.4:80x": port "80x" is not a number`},
		{"tcp", "1.2.3.4:", back, `invalid frontend "1.2.3.4:": the port is missing`},
		{"tcp", "1.2.3.4", back, `invalid frontend "1.2.3.4": an address alone; add a port, as in ADDR:PORT`},
		{"tcp", "[::1]", back, `invalid frontend "[::1]": an address alone; add a port, as in ADDR:PORT`},
		{"tcp", "::1", back, `invalid frontend "::1": an IPv6 frontend is written [ADDR]:PORT`},
		{"tcp", "::1:80", back, `invalid frontend "::1:80": an IPv6 frontend is written [ADDR]:PORT`},
		{"tcp", "[::1:80", back, `invalid frontend "[::1:80": the bracket is not closed`},
		{"tcp", "[::1]80", back, `invalid frontend "[::1]80": "80" after the bracket where :PORT belongs`},
		{"tcp", "[1.2.3.4]:80", back, `invalid frontend "[1.2.3.4]:80": brackets are for IPv6 addresses`},
		{"tcp", "[]:80", back, `invalid frontend "[]:80": brackets are for IPv6 addresses`},
		{"tcp", "[:::]:80", back, `invalid frontend "[:::]:80": ":::" is not an IP address`},
		{"tcp", "[fe80::1%eth0]:80", back, `invalid frontend "[fe80::1%eth0]:80": an address with a zone means different hosts on different links`},
		{"tcp", "80", "", `invalid backend "": it is empty`},
		{"tcp", "80", "90", `invalid backend "90": "90" is not an IP address`},
		{"tcp", "80", ":80", `invalid backend ":80": the address is missing`},
		{"tcp", "80", "172.17.0.2:", `invalid backend "172.17.0.2:": the port is missing`},
		{"tcp", "80", "172.17.0.2:0", `invalid backend "172.17.0.2:0": ports begin at 1`},
		{"tcp", "80", "localhost:80", `invalid backend "localhost:80": "localhost" is not an IP address`},
		{"tcp", "80", "[fd00::2", `invalid backend "[fd00::2": the bracket is not closed`},
		{"tcp", "80", "[fd00::2]:", `invalid backend "[fd00::2]:": the port is missing`},
		{"tcp", "80", "fe80::1%eth0", `invalid backend "fe80::1%eth0": an address with a zone means different hosts on different links`},
		{"tcp", "84", "fd00:17::2:80", `invalid backend "fd00:17::2:80": the last group may be a port: ` +
			`write [fd00:17::2]:80, or [fd00:17::2:80] for an address without a port`},
		{"tcp", "84", "::1:8080", `invalid backend "::1:8080": the last group may be a port: ` +
			`write [::1]:8080, or [::1:8080] for an address without a port`},
		{"tcp", "84", "fd00:17::2:18080", `invalid backend "fd00:17::2:18080": an IPv6 backend with a port is written [ADDR]:PORT, here [fd00:17::2]:18080`},
		{"tcp", "84-85", "fd00:17::2:80-81", `invalid backend "fd00:17::2:80-81": an IPv6 backend with a port is written [ADDR]:PORT, here [fd00:17::2]:80-81`},
		{"tcp", "84", "::ffff:1.2.3.4:80", `invalid backend "::ffff:1.2.3.4:80": an IPv6 backend with a port is written [ADDR]:PORT, here [::ffff:1.2.3.4]:80`},
		{"tcp", "84", "1:2:3:4:5:6:7:8:80", `invalid backend "1:2:3:4:5:6:7:8:80": an IPv6 backend with a port is written [ADDR]:PORT, here [1:2:3:4:5:6:7:8]:80`},
		{"tcp", "8000-8009", back, `invalid backend "172.17.0.2:80": ranges of unequal length: frontend 8000-8009 has 10 ports, the backend 1`},
		{"tcp", "80", "172.17.0.2:80-89", `invalid backend "172.17.0.2:80-89": ranges of unequal length: frontend 80 has 1 port, the backend 10`},
		{"tcp", "80-81", "172.17.0.2:80-82", `invalid backend "172.17.0.2:80-82": ranges of unequal length: frontend 80-81 has 2 ports, the backend 3`},
		{"tcp", "0", "172.17.0.2", `invalid backend "172.17.0.2": give it a port, since frontend 0 has none to share`},
		{"tcp", "192.0.2.1:0", "172.17.0.2", `invalid backend "172.17.0.2": give it a port, since frontend 0 has none to share`},
	} {
		m, err := nat.ParseMapping(tt.proto, tt.frontend, tt.backend)
		require.EqualError(t, err, tt.want)
		require.ErrorIs(t, err, nat.ErrInvalid)
		require.Zero(t, m)
		var typed *nat.InvalidError
		require.ErrorAs(t, err, &typed)
		require.Contains(t, []string{tt.proto, tt.frontend, tt.backend}, typed.Input)
	}
}

func TestParseMappingTextErrors(t *testing.T) {
	for in, want := range map[string]string{
		"":                        `invalid mapping "": no "->" between frontend and backend`,
		"8080":                    `invalid mapping "8080": no "->" between frontend and backend`,
		"8080=>172.17.0.2:80":     `invalid mapping "8080=>172.17.0.2:80": no "->" between frontend and backend`,
		"->":                      `invalid frontend "": it is empty`,
		"80->":                    `invalid backend "": it is empty`,
		"80->172.17.0.2:80/":      `invalid mapping "80->172.17.0.2:80/": unknown protocol "": tcp or udp`,
		"80->172.17.0.2:80/sctp":  `invalid mapping "80->172.17.0.2:80/sctp": unknown protocol "sctp": tcp or udp`,
		"80->172.17.0.2:80/UDP":   `invalid mapping "80->172.17.0.2:80/UDP": unknown protocol "UDP": tcp or udp`,
		"80/udp->172.17.0.2:80":   `invalid mapping "80/udp->172.17.0.2:80": unknown protocol "udp->172.17.0.2:80": tcp or udp`,
		"80->1.2.3.4:80/tcp/udp":  `invalid backend "1.2.3.4:80/tcp": port "80/tcp" is not a number`,
		"80->1.2.3.4:80->1.2.3.4": `invalid backend "1.2.3.4:80->1.2.3.4": port ">1.2.3.4" is not a number`,
		"80 -> 1.2.3.4:80":        `invalid frontend "80 ": port "80 " is not a number`,
		"8000-->1.2.3.4:80":       `invalid frontend "8000-": a range is written FIRST-LAST`,
		"0-9->1.2.3.4:80-89":      `invalid frontend "0-9": ports begin at 1`,
	} {
		m, err := nat.ParseMappingText(in)
		require.EqualError(t, err, want)
		require.ErrorIs(t, err, nat.ErrInvalid)
		require.Zero(t, m)
	}
	require.Equal(t, "80->1.2.3.4:80", nattest.Mapping(t, "80->1.2.3.4/tcp").String(), "what String leaves out may be said")
}

func TestParseFrontend(t *testing.T) {
	for _, in := range []string{"8080", "8000-8009", "192.0.2.1:80", "192.0.2.1:80-89", "[2001:db8::1]:80", "[::]:80-89", "1-65535"} {
		front, more, err := nat.ParseFrontend(in)
		require.NoError(t, err)
		require.Equal(t, in, nat.Mapping{Frontend: front, More: more}.FrontendText())
	}
	for in, want := range map[string]string{
		"0":           `invalid frontend "0": port 0 names no mapping`,
		"192.0.2.1:0": `invalid frontend "192.0.2.1:0": port 0 names no mapping`,
		"[::1]:0":     `invalid frontend "[::1]:0": port 0 names no mapping`,
		"":            `invalid frontend "": it is empty`,
		"80-79":       `invalid frontend "80-79": the range ends before it begins`,
		"1.2.3.4":     `invalid frontend "1.2.3.4": an address alone; add a port, as in ADDR:PORT`,
	} {
		front, more, err := nat.ParseFrontend(in)
		require.EqualError(t, err, want)
		require.ErrorIs(t, err, nat.ErrInvalid)
		require.Zero(t, front)
		require.Zero(t, more)
	}
}

func TestParseMappingRoundTrips(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 5000 {
		m := nattest.Random(r)
		m = nat.Mapping{Proto: m.Proto, Frontend: m.Frontend, Backend: m.Backend, More: m.More}
		require.Equal(t, m, nattest.Mapping(t, m.String()))
	}
}

func FuzzParseMappingText(f *testing.F) {
	for _, s := range []string{
		"8080->172.17.0.2:80", "53->172.17.0.2:53/udp", "[2001:db8::1]:8080->[fd00::2]:80",
		"8000-8009->172.17.0.2:9000-9009", "0->172.17.0.2:80-89", "80->fd00::", "80->[::ffff:1.2.3.4]/tcp",
		"[::1:80->x", "80->fd00::2:80", "1.2.3.4:80x->1.2.3:4", "80-80->1.2.3.4", "65535-65536->1.2.3.4", "[fe80::1%e]:1->::",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := nat.ParseMappingText(s)
		if err != nil {
			var typed *nat.InvalidError
			if !errors.As(err, &typed) || !errors.Is(err, nat.ErrInvalid) || m != (nat.Mapping{}) {
				t.Fatalf("ParseMappingText(%q) = %v, %v", s, m, err)
			}
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Fatalf("error of more than one line: %q", err)
			}
			return
		}
		again, err := nat.ParseMappingText(m.String())
		if err != nil || again != m {
			t.Fatalf("%q is %v, printed and read again %v, %v", s, m, again, err)
		}
		if m.Frontend.Port() == 0 {
			return
		}
		front, more, err := nat.ParseFrontend(m.FrontendText())
		if err != nil || front != m.Frontend || more != m.More {
			t.Fatalf("frontend of %q: %v %d, %v", s, front, more, err)
		}
	})
}

func BenchmarkParseMappingText(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := nat.ParseMappingText("8080->172.17.0.2:80"); err != nil {
			b.Fatal(err)
		}
	}
}
