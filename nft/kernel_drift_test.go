// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func texts(drift []Difference) (lines []string) {
	for _, d := range drift {
		lines = append(lines, d.String())
	}
	return lines
}

// requireRepairs holds Repair to what the differences say of it: the same table is right
// again, or nothing was changed.
func requireRepairs(t *testing.T, c *Conn, drift []Difference) {
	t.Helper()
	repairable := !slices.ContainsFunc(drift, func(d Difference) bool { return d.Recreate })
	before, err := c.Generation()
	require.NoError(t, err)
	info := mustTable(t, c)
	err = c.Repair(sample(), Change{}, info.Handle)
	after, genErr := c.Generation()
	require.NoError(t, genErr)
	if !repairable {
		require.ErrorIs(t, err, ErrNotRepairable)
		require.Equal(t, before, after)
		return
	}
	require.NoError(t, err)
	require.Equal(t, before+1, after)
	left, err := c.Drift(sample())
	require.NoError(t, err)
	require.Empty(t, left)
	info.Flags = 0
	require.Equal(t, info, mustTable(t, c))
}

// TestDrift tampers with the table in one way at a time, by nft(8).
func TestDrift(t *testing.T) {
	c, ns := kernel(t)
	for _, tt := range []struct {
		name, script string
		want         []string
	}{
		{"nothing", ``, nil},
		{"elements", `add element inet nftnat tcp4 { 1 : 192.0.2.1 . 1 }`, nil},
		{"another table", `add table inet other; add chain inet other publish`, nil},
		{"flush a chain", `flush chain inet nftnat nat-prerouting`, []string{
			"chain nat-prerouting: rule 1 is not: fib daddr type local jump publish",
		}},
		{"flush the table", `flush table inet nftnat`, []string{
			"chain admit: rule 1 is not: ip daddr . tcp dport . ip saddr != @tcp4_from drop",
			"chain admit: rule 2 is not: ip6 daddr . tcp dport . ip6 saddr != @tcp6_from drop",
			"chain admit: rule 3 is not: meta nfproto . meta l4proto . th dport @limited return",
			"chain admit: rule 4 is not: meta l4proto . ip daddr . th dport @limited4_host return",
			"chain admit: rule 5 is not: meta l4proto . ip6 daddr . th dport @limited6_host return",
			"chain admit: rule 6 is not: meta l4proto . ip daddr . th dport . ct original ip daddr @called4 return",
			"chain admit: rule 7 is not: meta l4proto . ip6 daddr . th dport . ct original ip6 daddr @called6 return",
			"chain by-ranges: rule 1 is not: udp sport . ip saddr @udp4_out_range masquerade to :udp sport",
			"chain by-ranges: rule 2 is not: meta l4proto . ip saddr . th sport @limited4_host return",
			"chain by-ranges: rule 3 is not: tcp sport . ip6 saddr @tcp6_out_range masquerade to :tcp sport",
			"chain by-ranges: rule 4 is not: snat ip to oifname . udp sport . ip saddr map @udp4_link_out_range:udp sport",
			"chain by-ranges: rule 5 is not: snat ip to tcp sport . ip saddr map @tcp4_host_range:tcp sport",
			"chain by-ranges: rule 6 is not: snat ip6 to udp sport . ip6 saddr map @udp6_host_range:udp sport",
			"chain publish-ranges: rule 1 is not: th dport . meta nfproto . meta l4proto @limited_range th dport . ip saddr . meta l4proto != @from4_range drop",
			"chain publish-ranges: rule 2 is not: th dport . ip6 daddr . meta l4proto . ip6 saddr != @from6_host_range return",
			"chain publish-ranges: rule 3 is not: dnat ip to tcp dport . ip daddr map @tcp4_host_range",
			"chain publish-ranges: rule 4 is not: dnat ip to tcp dport map @tcp4_range",
			"chain publish-ranges: rule 5 is not: dnat ip6 to udp dport . ip6 daddr map @udp6_host_range",
			"chain publish-ranges: rule 6 is not: dnat ip6 to udp dport map @udp6_range",
			"chain filter-forward: rule 1 is not: ct state established,related accept",
			"chain filter-forward: rule 2 is not: ip6 daddr @networks6 drop",
			"chain hairpin: rule 1 is not: ct status dnat iifname . oifname . ip saddr @segments4 masquerade fully-random",
			"chain hairpin: rule 2 is not: ct status dnat iif 0 oifname . oifname . ip6 saddr @segments6 fib saddr type != local masquerade fully-random",
			"chain mangle-prerouting: rule 1 is not: ct direction reply ct status dnat meta mark 0x00000000 meta mark set ct original ip daddr map @marks4",
			"chain mangle-prerouting: rule 2 is not: ct direction reply ct status dnat meta mark 0x00000000 meta mark set ct original ip6 daddr map @marks6",
			"chain mangle-prerouting: rule 3 is not: meta mark != @marks ct original ip daddr @networks4 meta mark set 0x1234abcd",
			"chain nat-output: rule 1 is not: ip daddr 127.0.0.0/8 return",
			"chain nat-output: rule 2 is not: ip6 daddr ::1 return",
			"chain nat-postrouting: rule 1 is not: ct status dnat ip saddr . ip daddr @inside4 masquerade fully-random",
			"chain nat-postrouting: rule 2 is not: ip saddr @networks4 ip daddr != @networks4 masquerade fully-random",
			"chain nat-prerouting: rule 1 is not: fib daddr type local jump publish",
			"chain past-holders: rule 1 is not: meta l4proto udp redirect to :udp dport map @udp4_shared",
			"chain past-holders: rule 2 is not: meta nfproto ipv4 meta l4proto tcp redirect to :ip daddr . tcp dport map @udp4_out",
			"chain publish: rule 1 is not: ip6 saddr fe80::/10 return",
			"chain publish: rule 2 is not: dnat ip to ip daddr . tcp dport map @tcp4_host",
			"chain publish: rule 3 is not: dnat ip to tcp dport map @tcp4",
			"chain publish: rule 4 is not: dnat ip to udp dport map @udp4",
			"chain publish: rule 5 is not: dnat ip6 to ip6 daddr . tcp dport map @tcp6_host",
			"chain publish: rule 6 is not: dnat ip6 to tcp dport map @tcp6",
			`chain raw-prerouting: rule 1 is not: iifname != "lo" ip daddr 127.0.0.0/8 drop`,
			"chain strangers: rule 1 is not: ip saddr @networks4 fib saddr . iif oif missing drop",
			"chain way-out: rule 1 is not: meta nfproto ipv4 meta l4proto udp masquerade to :ip saddr . udp sport map @udp4_out",
			"chain way-out: rule 2 is not: meta nfproto ipv6 meta l4proto tcp masquerade to :ip6 saddr . tcp sport map @tcp6_out",
			"chain way-out: rule 3 is not: snat ip to oifname . ip saddr . udp sport map @udp4_link_out",
			"chain way-out: rule 4 is not: snat ip6 to oifname . ip6 saddr . tcp sport map @tcp6_link_out",
			"chain way-out: rule 5 is not: snat ip to ip saddr . tcp sport map @tcp4_host",
		}},
		{"random ports of a map", `flush chain inet nftnat way-out
			add rule inet nftnat way-out meta nfproto ipv4 meta l4proto udp masquerade to :ip saddr . udp sport map @udp4_out fully-random
			add rule inet nftnat way-out meta nfproto ipv6 meta l4proto tcp masquerade to :ip6 saddr . tcp sport map @tcp6_out
			add rule inet nftnat way-out snat ip to oifname . ip saddr . udp sport map @udp4_link_out
			add rule inet nftnat way-out snat ip6 to oifname . ip6 saddr . tcp sport map @tcp6_link_out
			add rule inet nftnat way-out snat ip to ip saddr . tcp sport map @tcp4_host random`, []string{
			"chain way-out: rule 1 is not: meta nfproto ipv4 meta l4proto udp masquerade to :ip saddr . udp sport map @udp4_out",
			"chain way-out: rule 5 is not: snat ip to ip saddr . tcp sport map @tcp4_host",
		}},
		{"delete a rule", `flush chain inet nftnat nat-output; add rule inet nftnat nat-output ip daddr 127.0.0.0/8 return`, []string{
			"chain nat-output: rule 2 is not: ip6 daddr ::1 return",
		}},
		{"insert a rule", `insert rule inet nftnat nat-prerouting accept`, []string{
			"chain nat-prerouting: rule 1 is not: fib daddr type local jump publish",
			"chain nat-prerouting: rule 2 should not be there",
		}},
		{"append a rule", `add rule inet nftnat filter-forward accept`, []string{
			"chain filter-forward: rule 3 should not be there",
		}},
		{"other verdict", `flush chain inet nftnat filter-forward
			add rule inet nftnat filter-forward ct state established,related accept
			add rule inet nftnat filter-forward ip6 daddr @networks6 accept`, []string{
			"chain filter-forward: rule 2 is not: ip6 daddr @networks6 drop",
		}},
		{"other state", `flush chain inet nftnat filter-forward
			add rule inet nftnat filter-forward ct state established,related,new accept
			add rule inet nftnat filter-forward ip6 daddr @networks6 drop`, []string{
			"chain filter-forward: rule 1 is not: ct state established,related accept",
		}},
		{"other set", `flush chain inet nftnat filter-forward
			add rule inet nftnat filter-forward ct state established,related accept
			add rule inet nftnat filter-forward ip daddr @networks4 drop`, []string{
			"chain filter-forward: rule 2 is not: ip6 daddr @networks6 drop",
		}},
		{"other direction of a set", `flush chain inet nftnat nat-postrouting
			add rule inet nftnat nat-postrouting ct status dnat ip saddr . ip daddr @inside4 masquerade fully-random
			add rule inet nftnat nat-postrouting ip saddr @networks4 ip daddr @networks4 masquerade fully-random`, []string{
			"chain nat-postrouting: rule 2 is not: ip saddr @networks4 ip daddr != @networks4 masquerade fully-random",
		}},
		{"other masquerade", `flush chain inet nftnat nat-postrouting
			add rule inet nftnat nat-postrouting ct status dnat ip saddr . ip daddr @inside4 masquerade random
			add rule inet nftnat nat-postrouting ip saddr @networks4 ip daddr != @networks4 masquerade`, []string{
			"chain nat-postrouting: rule 1 is not: ct status dnat ip saddr . ip daddr @inside4 masquerade fully-random",
			"chain nat-postrouting: rule 2 is not: ip saddr @networks4 ip daddr != @networks4 masquerade fully-random",
		}},
		{"segments as listed", `flush chain inet nftnat hairpin
			add rule inet nftnat hairpin ct status dnat iifname . oifname . ip saddr @segments4 masquerade fully-random
			add rule inet nftnat hairpin ct status dnat iif 0 oifname . oifname . ip6 saddr @segments6 fib saddr type != local masquerade fully-random`, nil},
		{"other interfaces", `flush chain inet nftnat hairpin
			add rule inet nftnat hairpin ct status dnat oifname . iifname . ip saddr @segments4 masquerade fully-random
			add rule inet nftnat hairpin ct status dnat iif != 0 oifname . oifname . ip6 saddr @segments6 fib saddr type != local masquerade fully-random`, []string{
			"chain hairpin: rule 1 is not: ct status dnat iifname . oifname . ip saddr @segments4 masquerade fully-random",
			"chain hairpin: rule 2 is not: ct status dnat iif 0 oifname . oifname . ip6 saddr @segments6 fib saddr type != local masquerade fully-random",
		}},
		{"other local addresses", `flush chain inet nftnat hairpin
			add rule inet nftnat hairpin ct status dnat iifname . oifname . ip daddr @segments4 masquerade fully-random
			add rule inet nftnat hairpin ct status dnat iif 0 oifname . oifname . ip6 saddr @segments6 fib saddr type local masquerade fully-random`, []string{
			"chain hairpin: rule 1 is not: ct status dnat iifname . oifname . ip saddr @segments4 masquerade fully-random",
			"chain hairpin: rule 2 is not: ct status dnat iif 0 oifname . oifname . ip6 saddr @segments6 fib saddr type != local masquerade fully-random",
		}},
		{"inverted look-up", `flush chain inet nftnat filter-forward
			add rule inet nftnat filter-forward ct state established,related accept
			add rule inet nftnat filter-forward ip6 daddr != @networks6 drop`, []string{
			"chain filter-forward: rule 2 is not: ip6 daddr @networks6 drop",
		}},
		{"inverted state", `flush chain inet nftnat filter-forward
			add rule inet nftnat filter-forward ct state != established,related accept
			add rule inet nftnat filter-forward ip6 daddr @networks6 drop`, []string{
			"chain filter-forward: rule 1 is not: ct state established,related accept",
		}},
		{"other nat", `flush chain inet nftnat publish
			add rule inet nftnat publish ip6 saddr fe80::/10 return
			add rule inet nftnat publish dnat ip to ip daddr . tcp dport map @tcp4_host persistent
			add rule inet nftnat publish dnat ip to tcp dport map @tcp4
			add rule inet nftnat publish dnat ip to udp dport map @udp4
			add rule inet nftnat publish dnat ip6 to ip6 saddr . tcp dport map @tcp6_host
			add rule inet nftnat publish dnat ip6 to tcp dport map @tcp6 random`, []string{
			"chain publish: rule 2 is not: dnat ip to ip daddr . tcp dport map @tcp4_host",
			"chain publish: rule 5 is not: dnat ip6 to ip6 daddr . tcp dport map @tcp6_host",
			"chain publish: rule 6 is not: dnat ip6 to tcp dport map @tcp6",
		}},
		{"other interface", `flush chain inet nftnat raw-prerouting
			add rule inet nftnat raw-prerouting iifname != "eth0" ip daddr 127.0.0.0/8 drop`, []string{
			`chain raw-prerouting: rule 1 is not: iifname != "lo" ip daddr 127.0.0.0/8 drop`,
		}},
		{"other prefix", `flush chain inet nftnat nat-output
			add rule inet nftnat nat-output ip daddr 127.0.0.0/9 return
			add rule inet nftnat nat-output ip6 daddr ::2 return`, []string{
			"chain nat-output: rule 1 is not: ip daddr 127.0.0.0/8 return",
			"chain nat-output: rule 2 is not: ip6 daddr ::1 return",
		}},
		{"one match less", `flush chain inet nftnat raw-prerouting
			add rule inet nftnat raw-prerouting ip daddr 127.0.0.0/8 drop`, []string{
			`chain raw-prerouting: rule 1 is not: iifname != "lo" ip daddr 127.0.0.0/8 drop`,
		}},
		{"one match more", `flush chain inet nftnat nat-prerouting
			add rule inet nftnat nat-prerouting fib daddr type local tcp dport 80 jump publish`, []string{
			"chain nat-prerouting: rule 1 is not: fib daddr type local jump publish",
		}},
		{"jump elsewhere", `add chain inet nftnat elsewhere; flush chain inet nftnat nat-prerouting
			add rule inet nftnat nat-prerouting fib daddr type local jump elsewhere`, []string{
			"chain elsewhere should not be there",
			"chain nat-prerouting: rule 1 is not: fib daddr type local jump publish",
		}},
		{"goto", `flush chain inet nftnat nat-prerouting
			add rule inet nftnat nat-prerouting fib daddr type local goto publish`, []string{
			"chain nat-prerouting: rule 1 is not: fib daddr type local jump publish",
		}},
		{"other counter", `flush chain inet nftnat nat-prerouting
			add rule inet nftnat nat-prerouting fib daddr type local counter jump publish`, []string{
			"chain nat-prerouting: rule 1 is not: fib daddr type local jump publish",
		}},
		{"change a policy", `chain inet nftnat filter-forward { policy drop; }`, []string{
			"chain filter-forward is not: type filter hook forward priority filter; policy accept;",
		}},
		{"missing chain", `delete chain inet nftnat raw-prerouting`, []string{
			"chain raw-prerouting is missing",
			`chain raw-prerouting: rule 1 is not: iifname != "lo" ip daddr 127.0.0.0/8 drop`,
		}},
		{"extra chain", `add chain inet nftnat extra { type filter hook input priority 0; }`, []string{
			"chain extra should not be there",
		}},
		{"other priority", `delete chain inet nftnat raw-prerouting
			add chain inet nftnat raw-prerouting { type filter hook prerouting priority -299; }
			add rule inet nftnat raw-prerouting iifname != "lo" ip daddr 127.0.0.0/8 drop`, []string{
			"chain raw-prerouting is not: type filter hook prerouting priority raw; policy accept;",
		}},
		{"other hook", `delete chain inet nftnat raw-prerouting
			add chain inet nftnat raw-prerouting { type filter hook input priority raw; }
			add rule inet nftnat raw-prerouting iifname != "lo" ip daddr 127.0.0.0/8 drop`, []string{
			"chain raw-prerouting is not: type filter hook prerouting priority raw; policy accept;",
		}},
		{"no hook", `delete chain inet nftnat raw-prerouting; add chain inet nftnat raw-prerouting
			add rule inet nftnat raw-prerouting iifname != "lo" ip daddr 127.0.0.0/8 drop`, []string{
			"chain raw-prerouting is not: type filter hook prerouting priority raw; policy accept;",
		}},
		{"set of another type", `delete set inet nftnat ports; add set inet nftnat ports { type inet_proto; }`, []string{
			"set ports is of another type",
		}},
		{"set with flags", `delete set inet nftnat ports; add set inet nftnat ports { type inet_service; flags interval; }`, []string{
			"set ports is of another type",
		}},
		{"set with a size", `delete set inet nftnat ports; add set inet nftnat ports { type inet_service; size 7; }`, []string{
			"set ports is of another type",
		}},
		{"map in place of a set", `delete set inet nftnat ports; add map inet nftnat ports { type inet_service : verdict; }`, []string{
			"set ports is of another type",
		}},
		{"time-out of a map", `flush chain inet nftnat publish; delete map inet nftnat tcp6
			add map inet nftnat tcp6 { type inet_service : ipv6_addr . inet_service; timeout 1h; }
			flush table inet nftnat`, []string{
			"map tcp6 is of another type",
		}},
		{"prefixes without intervals", `delete set inet nftnat away4; add set inet nftnat away4 { type ipv4_addr; flags timeout; }`, []string{
			"set away4 is of another type",
		}},
		{"prefixes without time-outs", `delete set inet nftnat away4; add set inet nftnat away4 { type ipv4_addr; flags interval; }`, []string{
			"set away4 is of another type",
		}},
		{"prefixes of the other family", `delete set inet nftnat away4; add set inet nftnat away4 { type ipv6_addr; flags interval, timeout; }`, []string{
			"set away4 is of another type",
		}},
		{"prefixes as before", `delete set inet nftnat away4; add set inet nftnat away4 { type ipv4_addr; flags interval, timeout; }`, nil},
		{"time-out of a set", `delete set inet nftnat leases6; add set inet nftnat leases6 { type ipv6_addr; timeout 1h; }`, []string{
			"set leases6 is of another type",
		}},
		{"addresses with intervals", `delete set inet nftnat leases4; add set inet nftnat leases4 { type ipv4_addr; flags interval; }`, []string{
			"set leases4 is of another type",
		}},
		{"names with intervals", `delete set inet nftnat links; add set inet nftnat links { type ifname; flags interval; }`, []string{
			"set links is of another type",
		}},
		{"names as before", `delete set inet nftnat links; add set inet nftnat links { type ifname; }`, nil},
		{"numbers in place of names", `delete set inet nftnat links; add set inet nftnat links { type iface_index; }`, []string{
			"set links is of another type",
		}},
		{"elements of every kind", `add element inet nftnat networks4 { 10.0.0.0/8, 192.0.2.1 comment "x", 255.0.0.0/8 }
			add element inet nftnat away4 { 10.0.0.1-10.0.0.9 timeout 1h }
			add element inet nftnat leases4 { 10.0.0.1 }; add element inet nftnat links { "lo", "a b" }`, nil},
		{"missing set", `delete set inet nftnat hosts4`, []string{"set hosts4 is missing"}},
		{"missing map", `flush chain inet nftnat publish; delete map inet nftnat tcp4`, []string{"map tcp4 is missing"}},
		{"extra set", `add set inet nftnat extra { type mark; }`, []string{"map or set extra should not be there"}},
		{"dormant", `add table inet nftnat { flags dormant; }`, []string{"table nftnat is dormant"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.NoError(t, c.Replace(sample(), nil, 0))
			labtest.ExecInput(t, ns, tt.script, "nft", "-f", "-")
			found, err := c.Drift(sample())
			require.NoError(t, err)
			drift := texts(found)
			requireRepairs(t, c, found)
			if tt.name == "missing map" || tt.name == "time-out of a map" {
				// The rules that looked in it had to go first.
				require.Subset(t, drift, tt.want)
				return
			}
			require.ElementsMatch(t, tt.want, drift)
			require.NoError(t, c.Replace(sample(), nil, 0))
			found, err = c.Drift(sample())
			require.NoError(t, err)
			require.Empty(t, found)
		})
	}
}
