// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFilterString(t *testing.T) {
	for _, tt := range []struct {
		filter Filter
		want   string
	}{
		{Filter{}, "* *:*"},
		{Filter{Proto: 17, Dst: netip.IPv4Unspecified(), FirstPort: 53}, "udp 0.0.0.0:53"},
		{Filter{Proto: 17, FirstPort: 53, LastPort: 53}, "udp *:53"},
		{Filter{Proto: 6, Dst: netip.MustParseAddr("2001:db8::1"), FirstPort: 8000, LastPort: 8009}, "tcp [2001:db8::1]:8000-8009"},
		{Filter{Proto: 6, Dst: netip.IPv6Unspecified()}, "tcp [::]:*"},
		{Filter{Proto: 132, Dst: netip.MustParseAddr("192.0.2.1"), FirstPort: 65535}, "sctp 192.0.2.1:65535"},
		{Filter{Proto: 1}, "icmp *:*"},
		{Filter{Proto: 58}, "ipv6-icmp *:*"},
		{Filter{Proto: 47}, "gre *:*"},
		{Filter{Proto: 33}, "dccp *:*"},
		{Filter{Proto: 136}, "udplite *:*"},
		{Filter{Proto: 200}, "200 *:*"},
		{Filter{Proto: 17, Src: netip.MustParseAddr("10.0.0.2"), SrcPort: 53}, "udp *:* from 10.0.0.2:53"},
		{Filter{Proto: 17, FirstPort: 80, Src: netip.MustParseAddr("fd00::2")}, "udp *:80 from fd00::2"},
		{Filter{Proto: 17, SrcPort: 53}, "udp *:* from port 53"},
		{Filter{Proto: 6, FirstPort: 80, Unanswered: true}, "unanswered tcp *:80"},
		{Filter{Proto: 6, Unanswered: true, Translated: true}, "unanswered translated tcp *:*"},
	} {
		require.Equal(t, tt.want, tt.filter.String())
	}
}

func TestFilterMatches(t *testing.T) {
	tup := func(proto uint8, dst string) tuple {
		// The source has the numbers of the destination that others look for.
		src := netip.MustParseAddrPort("192.0.2.1:53")
		if netip.MustParseAddrPort(dst).Addr().Is6() {
			src = netip.MustParseAddrPort("[2001:db8::1]:53")
		}
		return tuple{proto: proto, src: src, dst: netip.MustParseAddrPort(dst)}
	}
	v4 := netip.MustParseAddr("192.0.2.1")
	v6 := netip.MustParseAddr("2001:db8::1")
	mapped := netip.MustParseAddr("::ffff:192.0.2.1")
	for _, tt := range []struct {
		name   string
		filter Filter
		yes    []tuple
		no     []tuple
	}{
		{"zero", Filter{},
			[]tuple{tup(17, "192.0.2.1:53"), tup(6, "[2001:db8::1]:0"), tup(1, "192.0.2.1:0")}, nil},
		{"port", Filter{Proto: 17, FirstPort: 53},
			[]tuple{tup(17, "192.0.2.1:53"), tup(17, "198.51.100.1:53"), tup(17, "[2001:db8::1]:53")},
			[]tuple{tup(6, "192.0.2.1:53"), tup(17, "192.0.2.1:52"), tup(17, "192.0.2.1:54"), tup(17, "192.0.2.1:0"), tup(17, "192.0.2.1:13568")}},
		{"address and port", Filter{Proto: 17, Dst: v4, FirstPort: 53},
			[]tuple{tup(17, "192.0.2.1:53")},
			[]tuple{tup(17, "192.0.2.2:53"), tup(17, "[::ffff:192.0.2.1]:53"), tup(17, "[2001:db8::1]:53"), tup(17, "192.0.2.1:54"), tup(6, "192.0.2.1:53")}},
		{"mapped address", Filter{Proto: 17, Dst: mapped, FirstPort: 53},
			[]tuple{tup(17, "192.0.2.1:53")}, []tuple{tup(17, "192.0.2.2:53")}},
		{"IPv6 address", Filter{Proto: 6, Dst: v6, FirstPort: 80},
			[]tuple{tup(6, "[2001:db8::1]:80")}, []tuple{tup(6, "[2001:db8::2]:80"), tup(6, "192.0.2.1:80")}},
		{"range", Filter{Proto: 6, Dst: v4, FirstPort: 8000, LastPort: 8002},
			[]tuple{tup(6, "192.0.2.1:8000"), tup(6, "192.0.2.1:8001"), tup(6, "192.0.2.1:8002")},
			[]tuple{tup(6, "192.0.2.1:7999"), tup(6, "192.0.2.1:8003"), tup(6, "192.0.2.2:8001")}},
		{"all ports", Filter{Proto: 6, FirstPort: 1, LastPort: 65535},
			[]tuple{tup(6, "192.0.2.1:1"), tup(6, "192.0.2.1:65535")}, []tuple{tup(6, "192.0.2.1:0")}},
		{"any IPv4", Filter{Proto: 6, Dst: netip.IPv4Unspecified(), FirstPort: 80},
			[]tuple{tup(6, "192.0.2.1:80"), tup(6, "198.51.100.1:80")}, []tuple{tup(6, "[2001:db8::1]:80")}},
		{"any IPv6", Filter{Proto: 6, Dst: netip.IPv6Unspecified(), FirstPort: 80},
			[]tuple{tup(6, "[2001:db8::1]:80")}, []tuple{tup(6, "192.0.2.1:80")}},
		{"source", Filter{Proto: 17, Src: v4, SrcPort: 53},
			[]tuple{tup(17, "192.0.2.2:80")}, []tuple{tup(17, "[2001:db8::2]:80"), tup(6, "192.0.2.2:80")}},
		{"mapped source", Filter{Proto: 17, Src: mapped}, []tuple{tup(17, "192.0.2.2:80")}, []tuple{tup(17, "[2001:db8::2]:80")}},
		{"other source", Filter{Proto: 17, Src: netip.MustParseAddr("192.0.2.3")}, nil, []tuple{tup(17, "192.0.2.2:80")}},
		{"source port", Filter{Proto: 17, SrcPort: 53}, []tuple{tup(17, "192.0.2.2:80"), tup(17, "[2001:db8::2]:80")}, nil},
		{"other source port", Filter{Proto: 17, SrcPort: 54}, nil, []tuple{tup(17, "192.0.2.2:53")}},
		{"address, any port", Filter{Proto: 1, Dst: v4},
			[]tuple{tup(1, "192.0.2.1:0")}, []tuple{tup(1, "192.0.2.2:0")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := tt.filter.normal()
			require.NoError(t, err)
			for _, tup := range tt.yes {
				require.True(t, f.matches(tup, StatusSeenReply), "%v", tup)
			}
			for _, tup := range tt.no {
				require.False(t, f.matches(tup, StatusSeenReply), "%v", tup)
			}
			f.Unanswered = true
			for _, tup := range tt.yes {
				require.True(t, f.matches(tup, StatusConfirmed), "%v", tup)
				require.False(t, f.matches(tup, StatusSeenReply), "%v", tup)
			}
			f.Translated = true
			for _, tup := range tt.yes {
				require.True(t, f.matches(tup, StatusDNAT), "%v", tup)
				require.False(t, f.matches(tup, StatusConfirmed), "%v", tup)
				require.False(t, f.matches(tup, StatusDNAT|StatusSeenReply), "%v", tup)
			}
		})
	}
}
