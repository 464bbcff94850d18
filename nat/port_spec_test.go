// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// The table of 2013 and what has come since: proto, frontend, backend, more.
func TestParsePortSpec(t *testing.T) {
	tests := map[string]string{
		"4500":                        "tcp :0 4500 0",
		":4501":                       "tcp :4501 4501 0",
		"4502:4503":                   "tcp :4502 4503 0",
		"4502:4503/tcp":               "tcp :4502 4503 0",
		"4502:4503/udp":               "udp :4502 4503 0",
		":4503/udp":                   "udp :4503 4503 0",
		":4503/tcp":                   "tcp :4503 4503 0",
		"4503/tcp":                    "tcp :0 4503 0",
		"4503/udp":                    "udp :0 4503 0",
		"0:80":                        "tcp :0 80 0",
		"1:65535":                     "tcp :1 65535 0",
		"192.0.2.1:4502:4503/tcp":     "tcp 192.0.2.1:4502 4503 0",
		"127.0.0.1:0:53/udp":          "udp 127.0.0.1:0 53 0",
		"0.0.0.0:80:80":               "tcp 0.0.0.0:80 80 0",
		"[::]:80:80":                  "tcp :::80 80 0",
		"[2001:db8::1]:4502:4503":     "tcp 2001:db8::1:4502 4503 0",
		"[::ffff:192.0.2.1]:80:80":    "tcp 192.0.2.1:80 80 0",
		"8000-8009:9000-9009/udp":     "udp :8000 9000 9",
		"8000-8009":                   "tcp :0 8000 9",
		":8000-8009":                  "tcp :8000 8000 9",
		"0:8000-8009/udp":             "udp :0 8000 9",
		"[fd00::1]:8000-8001:900-901": "tcp fd00::1:8000 900 1",
		"192.0.2.1:8000-8001:900-901": "tcp 192.0.2.1:8000 900 1",
	}
	for spec, want := range tests {
		s, err := nat.ParsePortSpec(spec)
		require.NoError(t, err, spec)
		host := ""
		if a := s.Frontend.Addr(); a.IsValid() {
			host = a.String()
		}
		require.Equal(t, want, fmt.Sprintf("%s %s:%d %d %d", s.Proto, host, s.Frontend.Port(), s.Backend, s.More), spec)
		again, err := nat.ParsePortSpec(s.String())
		require.NoError(t, err, spec)
		require.Equal(t, s, again, "%s is written %s", spec, s)
	}
}

func TestParsePortSpecErrors(t *testing.T) {
	for spec, want := range map[string]string{
		"4503/tcpgarbage": "Invalid port format: unknown protocol tcpgarbage.",
		"/":               "Invalid port format: unknown protocol .",
		"4503/":           "Invalid port format: unknown protocol .",
		"4503/TCP":        "Invalid port format: unknown protocol TCP.",
		"4503/sctp":       "Invalid port format: unknown protocol sctp.",
		"a:b:c/x\n":       `Invalid port format: unknown protocol "x\n".`,
	} {
		_, err := nat.ParsePortSpec(spec)
		require.EqualError(t, err, want)
		require.ErrorIs(t, err, nat.ErrInvalid)
	}
	for _, spec := range []string{
		"", "/tcp/", "4503/tcp/udp", "/tcp", "a:b:c", ":", "::", "80:", "80:0", ":0", "0", "0:0", "65536", ":65536", "80:65536",
		"-1", "+80", "080", "80 ", " 80", "8 0", "80-", "-80", "80-79", "80-81:90", "80:90-91", "80-81:90-92", "1-65536",
		"192.0.2.1:80", "192.0.2.1::80", "192.0.2.300:80:80", "::1:80:80", "[::1]:80", "[::1]", "[::1]80:80", "[::1:80:80",
		"[192.0.2.1]:80:80", "[fe80::1%eth0]:80:80", "host:80:80", "1:2:3:4", "192.0.2.1:0-1:80-81", "0-1:80-81", "[]:80:80", "80:80\x00",
	} {
		_, err := nat.ParsePortSpec(spec)
		require.EqualError(t, err, fmt.Sprintf("Invalid port format: %q", spec))
		require.ErrorIs(t, err, nat.ErrInvalid)
	}
}

func FuzzParsePortSpec(f *testing.F) {
	for _, spec := range []string{"4500", ":4501", "4502:4503/udp", "[::1]:80:80", "192.0.2.1:8000-8001:900-901", "a:b:c", "4503/tcp/udp"} {
		f.Add(spec)
	}
	addr := netip.MustParseAddr("172.30.0.2")
	f.Fuzz(func(t *testing.T, spec string) {
		s, err := nat.ParsePortSpec(spec)
		if err != nil {
			require.ErrorIs(t, err, nat.ErrInvalid)
			require.NotContains(t, err.Error(), "\n")
			return
		}
		again, err := nat.ParsePortSpec(s.String())
		require.NoError(t, err, s.String())
		require.Equal(t, s, again)
		m := s.Mapping("web", addr)
		if m.Validate() == nil {
			back, ok := nat.SpecOf(m)
			require.True(t, ok)
			require.Equal(t, s, back)
		}
	})
}
