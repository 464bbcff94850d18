// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func openPolicy(t *testing.T, ns *lab.NS) *Policy {
	t.Helper()
	labtest.Tool(t, "ip")
	opened, err := OpenNamespace(ns.Path())
	require.NoError(t, err)
	p, err := OpenPolicy(opened)
	require.NoError(t, err)
	t.Cleanup(func() {
		p.Close()
		require.NoError(t, opened.Close())
	})
	return p
}

// Rules are read as ip(8) adds them, and are added again as they are listed.
func TestPolicyRules(t *testing.T) {
	ns := labtest.NewNS(t, "policy")
	p := openPolicy(t, ns)
	for _, is4 := range []bool{true, false} {
		rules, err := p.Rules(is4)
		require.NoError(t, err)
		require.NotEmpty(t, rules)
		for _, r := range rules {
			require.Equal(t, uint8(unix.RTPROT_KERNEL), r.Protocol, r)
		}
		option, from, to := "-4", "198.51.100.0/24", "10.0.0.0/8"
		if !is4 {
			option, from, to = "-6", "2001:db8:2::/64", "fd00::/16"
		}
		for i, line := range []string{
			"lookup 102", "to " + to + " lookup 1000", "tos 0x10 lookup 102", "ipproto tcp dport 80-90 prohibit", "goto 32000",
			"fwmark 0x5/0xf lookup 102", "iif lo lookup 102", "lookup main suppress_prefixlength 0 suppress_ifgroup 5",
			"unreachable", "blackhole", "nop", "oif lo lookup 102", "sport 80 lookup 102", "uidrange 1-2 lookup 102",
		} {
			words := append([]string{option, "rule", "add", "priority", "200", "from", from}, strings.Fields(line)...)
			labtest.Exec(t, ns, "ip", words...)
			rules, err := p.Rules(is4)
			require.NoError(t, err)
			r := rules[1]
			require.NotEqual(t, uint8(unix.RTPROT_KERNEL), r.Protocol, line)
			require.Equal(t, i > 10, r.Opaque, line)
			require.Equal(t, from, r.From.String(), line)
			listed := labtest.Exec(t, ns, "ip", option, "rule", "show", "priority", "200")
			require.NoError(t, p.DeleteRule(r), line)
			require.NoError(t, p.DeleteRule(r), "twice")
			require.Empty(t, labtest.Exec(t, ns, "ip", option, "rule", "show", "priority", "200"), line)
			if r.Opaque {
				continue
			}
			require.NoError(t, p.AddRule(r), line)
			require.ErrorIs(t, p.AddRule(r), unix.EEXIST, line)
			require.Equal(t, listed, labtest.Exec(t, ns, "ip", option, "rule", "show", "priority", "200"))
			require.NoError(t, p.DeleteRule(r), line)
		}
		labtest.Exec(t, ns, "ip", option, "rule", "add", "not", "from", from, "lookup", "102", "priority", "200")
		rules, err = p.Rules(is4)
		require.NoError(t, err)
		require.True(t, rules[1].Opaque)
	}
}

// Addresses that others cannot reach are left out; ways depend on the source.
func TestPolicyWays(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1})
	p := openPolicy(t, top.Host)
	addrs, err := p.Addresses()
	require.NoError(t, err)
	require.Contains(t, addrs, top.Gateway4)
	require.Contains(t, addrs, top.Gateway6)
	for _, a := range addrs {
		require.False(t, a.IsLoopback() || a.IsLinkLocalUnicast() && a.Is6(), a)
	}
	to := top.Backend1.V4
	usual, err := p.WayTo(to, netip.Addr{})
	require.NoError(t, err)
	require.NotZero(t, usual.Link)
	same, err := p.WayTo(to, top.Gateway4)
	require.NoError(t, err)
	require.Equal(t, usual, same)
	for _, table := range []string{"unreachable default", "default via " + to.String(), "prohibit default", "blackhole default"} {
		labtest.Exec(t, top.Host, "ip", strings.Fields("route replace "+table+" table 102")...)
		labtest.Exec(t, top.Host, "ip", "rule", "add", "from", top.Gateway4.String(), "lookup", "102")
		way, err := p.WayTo(to, top.Gateway4)
		require.NoError(t, err)
		require.NotEqual(t, usual, way, table)
		labtest.Exec(t, top.Host, "ip", "rule", "del", "from", top.Gateway4.String())
		labtest.Exec(t, top.Host, "ip", "route", "flush", "table", "102")
	}
}

// FuzzParseRule takes any bytes for a rule.
func FuzzParseRule(f *testing.F) {
	r := Rule{Is4: true, Priority: 9, To: netip.MustParsePrefix("10.0.0.0/8"), Mark: 5, Mask: exactMask, Action: unix.FR_ACT_TO_TBL, Table: 1000, IIF: "lo", MinLength: 1}
	f.Add(r.appendTo(append([]byte{unix.AF_INET}, make([]byte, ruleHeader-1)...)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseRule(b); err == nil {
			require.NotEmpty(t, r.String())
		}
	})
}
