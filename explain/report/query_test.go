// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package report_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/nat"
)

func ExampleParseQuery() {
	q, err := report.ParseQuery("tcp", "192.0.2.1:8080", "198.51.100.7")
	fmt.Println(q.Frontend, q.From, err)
	_, err = report.ParseQuery("tcp", "8080", "198.51.100.0/24")
	fmt.Println(err)
	// Output:
	// 192.0.2.1:8080 198.51.100.7 <nil>
	// invalid client "198.51.100.0/24": it is a network, and a packet comes from one address, such as 198.51.100.1
}

func TestParseQuery(t *testing.T) {
	for _, c := range []struct{ frontend, from string }{
		{"8080", ""}, {"8080", "::1"}, {"8080", "fe80::1%eth0"}, {"192.0.2.1:8080", "127.0.0.1"}, {"[2001:db8::1]:8080", "2001:db8::2"},
		{"0.0.0.0:8080", "169.254.1.1"}, {"[::]:1", "fe80::1%2"},
	} {
		q, err := report.ParseQuery("udp", c.frontend, c.from)
		require.NoError(t, err, c)
		require.Equal(t, nat.UDP, q.Proto)
		require.Equal(t, c.frontend, nat.Mapping{Frontend: q.Frontend}.FrontendText())
		if c.from != "" {
			require.Equal(t, c.from, q.From.String())
		}
	}
	q, err := report.ParseQuery("tcp", "80", "::ffff:192.0.2.1")
	require.NoError(t, err)
	require.Equal(t, netip.MustParseAddr("192.0.2.1"), q.From)
}

func TestParseQueryRefuses(t *testing.T) {
	for _, c := range []struct{ proto, frontend, from, want string }{
		{"sctp", "80", "", `unknown protocol "sctp"`},
		{"tcp", "0", "", "port 0 names no mapping"},
		{"tcp", "70000", "", "ports end at 65535"},
		{"tcp", "8000-8009", "", "such as 8000"},
		{"tcp", "192.0.2.1:8000-8009", "", "such as 192.0.2.1:8000"},
		{"tcp", "8080->172.17.0.2:80", "", "it is a mapping, whose frontend is 8080"},
		{"tcp", "80", "10.0.0.0/8", "such as 10.0.0.1"},
		{"tcp", "80", "10.0.0.1-10.0.0.9", "it is a range"},
		{"tcp", "80", "10.0.0.1:5000", "the port does not matter: 10.0.0.1"},
		{"tcp", "80", "[::1]:5000", "the port does not matter: ::1"},
		{"tcp", "80", "[::1]", "without brackets: ::1"},
		{"tcp", "80", "localhost", "it is no IP address"},
		{"tcp", "80", "10.0.0.01", "it is no IP address"},
		{"tcp", "80", "0.0.0.0", "unspecified"},
		{"tcp", "80", "::", "unspecified"},
		{"tcp", "80", "224.0.0.1", "an address of many"},
		{"tcp", "80", "ff02::1%eth0", "an address of many"},
		{"tcp", "80", "255.255.255.255", "an address of many"},
		{"tcp", "80", "fe80::1", "fe80::1%eth0"},
		{"tcp", "80", "2001:db8::1%eth0", "only a link-local address"},
		{"tcp", "192.0.2.1:80", "2001:db8::1", "another family than 192.0.2.1"},
		{"tcp", "[::]:80", "192.0.2.1", "another family than ::"},
	} {
		_, err := report.ParseQuery(c.proto, c.frontend, c.from)
		require.ErrorIs(t, err, nat.ErrInvalid, "%v", c)
		require.ErrorContains(t, err, c.want)
	}
}
