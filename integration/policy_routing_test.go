// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// uplinks is a host with two uplinks, a LAN and a backend, without rules. Its default route is
// by the first uplink. Both providers know the client's address, and are the client.
type uplinks struct {
	host, isp1, isp2, lan, backend *lab.NS
}

// uplinkFamily has the addresses of a family. Those of the links end in 1, and those at the
// other end in 2.
type uplinkFamily struct {
	option                           string // of ip(8)
	wan1, wan2, lan, backend, client netip.Prefix
	wildcard                         netip.Addr
}

func uplinkFamilies() []uplinkFamily {
	return []uplinkFamily{{
		option: "-4", wan1: mustPrefix("192.0.2.1/24"), wan2: mustPrefix("198.51.100.1/24"), lan: mustPrefix("10.7.0.1/24"),
		backend: mustPrefix("172.30.0.1/24"), client: mustPrefix("203.0.113.50/32"), wildcard: netip.IPv4Unspecified(),
	}, {
		option: "-6", wan1: mustPrefix("2001:db8:1::1/64"), wan2: mustPrefix("2001:db8:2::1/64"), lan: mustPrefix("fd00:7::1/64"),
		backend: mustPrefix("fd00:30::1/64"), client: mustPrefix("2001:db8:77::50/128"), wildcard: netip.IPv6Unspecified(),
	}}
}

func newUplinks(t *testing.T) *uplinks {
	t.Helper()
	u := &uplinks{}
	for name, ns := range map[string]**lab.NS{"host": &u.host, "isp1": &u.isp1, "isp2": &u.isp2, "lan": &u.lan, "backend": &u.backend} {
		*ns = labtest.NewNS(t, name)
	}
	fs := uplinkFamilies()
	wire := func(link string, ns *lab.NS, of func(uplinkFamily) netip.Prefix) {
		host, other := lab.End{NS: u.host, Link: link}, lab.End{NS: ns, Link: lab.MachineLink}
		for _, f := range fs {
			p := of(f)
			host.Addrs = append(host.Addrs, p)
			other.Addrs = append(other.Addrs, netip.PrefixFrom(p.Addr().Next(), p.Bits()))
		}
		require.NoError(t, lab.Wire(host, other))
		for _, f := range fs {
			if p := of(f); ns != u.isp1 {
				labtest.Exec(t, ns, "ip", f.option, "route", "add", "default", "via", p.Addr().String())
			}
		}
	}
	wire("wan1", u.isp1, func(f uplinkFamily) netip.Prefix { return f.wan1 })
	wire("wan2", u.isp2, func(f uplinkFamily) netip.Prefix { return f.wan2 })
	wire("lan0", u.lan, func(f uplinkFamily) netip.Prefix { return f.lan })
	wire("br0", u.backend, func(f uplinkFamily) netip.Prefix { return f.backend })
	for _, f := range fs {
		for _, ns := range []*lab.NS{u.isp1, u.isp2} {
			labtest.Exec(t, ns, "ip", f.option, "address", "add", f.client.String(), "dev", "lo", "nodad")
		}
		labtest.Exec(t, u.isp1, "ip", f.option, "route", "add", "default", "via", f.wan1.Addr().String())
		ip(t, u.host, f.option+" route add default via "+f.wan1.Addr().Next().String())
		ip(t, u.host, f.option+" route add default via "+f.wan2.Addr().Next().String()+" table 102")
		ip(t, u.host, f.option+" route add default via "+f.wan1.Addr().Next().String()+" table 101")
	}
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, u.backend, network, "backend", ":80")
	}
	return u
}

// ip runs ip(8) with words.
func ip(t *testing.T, ns *lab.NS, line string) string {
	t.Helper()
	return labtest.Exec(t, ns, "ip", strings.Fields(line)...)
}

// publishOn publishes a port of each protocol and family for any address, and one for the
// address of the second uplink.
func (u *uplinks) publishOn(t *testing.T, s *testbed) {
	t.Helper()
	for _, f := range uplinkFamilies() {
		for _, network := range []string{"tcp", "udp"} {
			to := at(f.backend.Addr().Next(), 80)
			s.succeed(t, fmt.Sprintf("add %s %s %s", network, at(f.wildcard, 8080), to))
			s.succeed(t, fmt.Sprintf("add %s %s %s", network, at(f.wan2.Addr(), 8081), to))
		}
	}
}

// asks has a machine ask the published ports of the second uplink's address, or of another
// address for any, and requires the backend to see that peer. The source is chosen if it is
// the zero Addr.
func (f uplinkFamily) asks(ns *lab.NS, host, from, peer netip.Addr, wait time.Duration) error {
	for _, network := range []string{"tcp", "udp"} {
		for _, port := range []int{8080, 8081} {
			if port == 8081 && host != f.wan2.Addr() {
				continue
			}
			source := netip.AddrPort{}
			if from.IsValid() {
				source = netip.AddrPortFrom(from, 0)
			}
			name, saw, err := askWithin(ns, network, at(host, port), source, wait)
			if err == nil && (name != "backend" || peer.IsValid() && saw.Addr() != peer) {
				err = fmt.Errorf("%s answered to %s", name, saw)
			}
			if err != nil {
				return fmt.Errorf("%s %s asks %s port %d from %s: %w", ns, network, host, port, from, err)
			}
		}
	}
	return nil
}

// ownRules lists the rules of engines.
func ownRules(t *testing.T, ns *lab.NS) (lines []string) {
	t.Helper()
	for _, f := range uplinkFamilies() {
		for line := range strings.Lines(ip(t, ns, f.option+" rule show")) {
			if strings.Contains(line, "proto 78") {
				lines = append(lines, f.option+" "+strings.Join(strings.Fields(line), " "))
			}
		}
	}
	return lines
}

// Who comes by the second uplink is answered by it while a rule says so for the address, with
// whatever checks of sources; all others are answered as without it.
func TestUplinkAnswers(t *testing.T) {
	u := newUplinks(t)
	s := newTestbed(t, u.host)
	s.serve(t)
	u.publishOn(t, s)
	require.Empty(t, ownRules(t, u.host))
	others := func(f uplinkFamily) {
		require.NoError(t, f.asks(u.isp1, f.wan1.Addr(), f.client.Addr(), f.client.Addr(), answerTimeout))
		require.NoError(t, f.asks(u.lan, f.lan.Addr(), netip.Addr{}, f.lan.Addr().Next(), answerTimeout))
		require.NoError(t, f.asks(u.lan, f.wan2.Addr(), netip.Addr{}, f.lan.Addr().Next(), answerTimeout), "the LAN has no route in the table")
		require.NoError(t, f.asks(u.isp2, f.wan2.Addr(), f.wan2.Addr().Next(), f.wan2.Addr().Next(), answerTimeout), "on the link")
		require.NoError(t, f.asks(u.backend, f.wan2.Addr(), netip.Addr{}, netip.Addr{}, answerTimeout), "hairpin")
	}
	for _, f := range uplinkFamilies() {
		others(f)
		require.Error(t, f.asks(u.isp2, f.wan2.Addr(), f.client.Addr(), f.client.Addr(), silence), "there is no rule yet")
		ip(t, u.host, f.option+" rule add from "+f.wan2.Addr().String()+" lookup 102")
	}
	load(t, u.host, `table inet watch {
		counter marked {}
		chain postrouting { type filter hook postrouting priority mangle; meta mark & 0xffffff00 == 0x1000 counter name marked; }
		chain strict { type filter hook prerouting priority mangle + 10; iifname "br0" ct direction reply fib saddr . mark . iif oif missing drop; }
	}`)
	for _, mode := range []struct{ filter, mark string }{{"0", "0"}, {"1", "0"}, {"1", "1"}, {"2", "1"}} {
		for _, name := range []string{"all", "br0"} {
			require.NoError(t, u.host.Sysctl("net.ipv4.conf."+name+".rp_filter", mode.filter))
			require.NoError(t, u.host.Sysctl("net.ipv4.conf."+name+".src_valid_mark", mode.mark))
		}
		for _, link := range []string{"wan1", "wan2", "lan0"} { // the client has two ways
			require.NoError(t, u.host.Sysctl("net.ipv4.conf."+link+".rp_filter", "0"))
		}
		if mode.filter == "1" { // all and the link's own: the higher one counts
			require.NoError(t, u.host.Sysctl("net.ipv4.conf.all.rp_filter", "0"))
		}
		for _, f := range uplinkFamilies() {
			await(t, "the rule to be followed", func() bool {
				return f.asks(u.isp2, f.wan2.Addr(), f.client.Addr(), f.client.Addr(), silence) == nil
			})
			others(f)
		}
	}
	require.Contains(t, nft(t, u.host, "list", "counter", "inet", "watch", "marked"), "packets 0 ", "the mark is nobody else's")

	// A service that nothing listens at is refused by the same way.
	for _, f := range uplinkFamilies() {
		s.succeed(t, fmt.Sprintf("add udp %s %s", at(f.wildcard, 8099), at(f.backend.Addr().Next(), 99)))
		_, _, err := askWithin(u.isp2, "udp", at(f.wan2.Addr(), 8099), netip.AddrPortFrom(f.client.Addr(), 0), answerTimeout)
		require.ErrorContains(t, err, "refused")
	}
	for _, f := range uplinkFamilies() {
		ip(t, u.host, f.option+" rule del from "+f.wan2.Addr().String())
	}
	await(t, "the rules to be removed", func() bool { return len(ownRules(t, u.host)) == 0 })
}

// The host reaches its published ports by its own addresses when another table is for one of
// them, and by those of the LAN when it is bound to a loopback address.
func TestUplinkOwnAddress(t *testing.T) {
	u := newUplinks(t)
	s := newTestbed(t, u.host)
	s.serve(t)
	u.publishOn(t, s)
	loopbacks := map[string]netip.Addr{"-4": loopback4, "-6": loopback6}
	asks := func(f uplinkFamily, wait time.Duration) error {
		for _, from := range []netip.Addr{{}, f.wan2.Addr(), loopbacks[f.option], f.lan.Addr()} {
			for _, host := range []netip.Addr{f.wan2.Addr(), f.wan1.Addr(), f.lan.Addr()} {
				if err := f.asks(u.host, host, from, netip.Addr{}, wait); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for _, f := range uplinkFamilies() {
		require.NoError(t, asks(f, answerTimeout))
		require.NoError(t, f.asks(u.host, f.wan2.Addr(), f.wan2.Addr(), f.wan2.Addr(), answerTimeout), "its source is kept")
		begun := dialFlow(t, u.host, "udp", at(f.wan2.Addr(), 8080))
		require.Equal(t, "backend", must(begun.ask()))
		ip(t, u.host, f.option+" rule add from "+f.wan2.Addr().String()+" lookup 102")
		await(t, "the rule to be followed", func() bool { return asks(f, silence) == nil })
		require.NoError(t, asks(f, answerTimeout))
		require.Equal(t, "backend", must(begun.ask()), "a flow that began before")
		require.NoError(t, f.asks(u.host, f.wan1.Addr(), f.wan1.Addr(), f.wan1.Addr(), answerTimeout), "no rule is for this one")
	}
	require.Empty(t, s.status(t).Warnings)
	s.succeed(t, "add tcp 8200 172.30.0.2:80 --no-proxy")
	require.Len(t, s.status(t).Warnings, 1)
	require.Contains(t, s.status(t).Warnings[0], "this host does not reach 1 ports by its addresses [198.51.100.1 2001:db8:2::1]")

	// Rules that know the backend lead to it, and nothing is to be done.
	for _, f := range uplinkFamilies() {
		ip(t, u.host, f.option+" route add "+f.backend.Masked().String()+" dev br0 table 102")
		await(t, "the route to be followed", func() bool {
			return f.asks(u.host, f.wan2.Addr(), f.wan2.Addr(), f.wan2.Addr(), silence) == nil
		})
	}
	require.Empty(t, s.status(t).Warnings)
}

// Without one of the rules of the table, something is not answered, or a mark is seen by
// others.
func TestUplinkMutations(t *testing.T) {
	u := newUplinks(t)
	for _, f := range uplinkFamilies() {
		ip(t, u.host, f.option+" rule add from "+f.wan2.Addr().String()+" lookup 102")
	}
	e, err := engine.Open(t.Context(), engine.Options{NetNS: u.host.Path(), NoOwner: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	for _, f := range uplinkFamilies() {
		for _, network := range []string{"tcp", "udp"} {
			to := "->" + at(f.backend.Addr().Next(), 80) + suffix(network)
			publish(t, e, toward(f.wildcard, 8080, 8080)+to, toward(f.wan2.Addr(), 8081, 8081)+to)
		}
	}
	load(t, u.host, `table inet watch {
		counter marked {}
		chain postrouting { type filter hook postrouting priority mangle; meta mark & 0xffffff00 == 0x1000 counter name marked; }
	}`)
	works := func(wait time.Duration) error {
		labtest.Exec(t, u.host, "conntrack", "-F")
		for _, f := range uplinkFamilies() {
			err := errors.Join(
				f.asks(u.isp2, f.wan2.Addr(), f.client.Addr(), f.client.Addr(), wait),
				f.asks(u.host, f.wan2.Addr(), f.wan2.Addr(), netip.Addr{}, wait),
				f.asks(u.host, f.lan.Addr(), map[string]netip.Addr{"-4": loopback4, "-6": loopback6}[f.option], netip.Addr{}, wait),
			)
			if err != nil {
				return err
			}
		}
		if !strings.Contains(nft(t, u.host, "reset", "counter", "inet", "watch", "marked"), "packets 0 ") {
			return errors.New("a mark was seen")
		}
		return nil
	}
	require.NoError(t, works(answerTimeout))
	rules := rulesOf(nft(t, u.host, "-s", "-t", "list", "table", "inet", "nftnat"))
	tried := 0
	for i, rule := range rules {
		if chain, _, _ := strings.Cut(rule, ": "); notProbed()[rule] == byUplinks {
			tried++
			load(t, u.host, chainScript(chain, rules, i))
			require.Error(t, works(silence), "without %s", rule)
			load(t, u.host, chainScript(chain, rules, -1))
		}
	}
	require.Equal(t, 10, tried)
	require.NoError(t, works(answerTimeout))
}

// byWan2 reports whether a client behind the second uplink gets an answer over a protocol.
func (f uplinkFamily) byWan2(u *uplinks, network string, wait time.Duration) bool {
	name, saw, err := askWithin(u.isp2, network, at(f.wan2.Addr(), 8080), netip.AddrPortFrom(f.client.Addr(), 0), wait)
	return err == nil && name == "backend" && saw.Addr() == f.client.Addr()
}

// Rules of many kinds are followed, and those that are not for an address work as ever.
func TestUplinkRules(t *testing.T) {
	labtest.LongOnly(t, "rules of many kinds with two uplinks")
	u := newUplinks(t)
	s := newTestbed(t, u.host)
	s.serve(t)
	u.publishOn(t, s)
	for name, tt := range map[string]struct {
		rules []string // in which W is the address of the second uplink, P its prefix, and C the client's address
		// admin is a chain of the administrator's.
		admin    string
		tcp, udp bool
		copied   bool // whether there are rules of the engine
	}{
		"prefix":             {rules: []string{"from P lookup 102"}, tcp: true, udp: true, copied: true},
		"destination":        {rules: []string{"from W to C lookup 102 priority 77"}, tcp: true, udp: true, copied: true},
		"elsewhere":          {rules: []string{"from W to 192.0.2.0/24 lookup 102", "from W to 2001:db8:1::/64 lookup 102"}, copied: true},
		"protocol":           {rules: []string{"from W ipproto tcp lookup 102"}, tcp: true, copied: true},
		"port of the client": {rules: []string{"from W dport 1024-65534 ipproto udp lookup 102"}, udp: true, copied: true},
		"port of a service":  {rules: []string{"from W sport 8080 ipproto udp lookup 102"}},
		"order":              {rules: []string{"from W lookup 102 priority 10", "from W lookup 101 priority 11"}, tcp: true, udp: true, copied: true},
		"prohibited":         {rules: []string{"from W prohibit priority 10", "from W lookup 102 priority 11"}, copied: true},
		"goto":               {rules: []string{"from W goto 20 priority 10", "from W lookup 101 priority 11", "from P lookup 102 priority 20"}, tcp: true, udp: true, copied: true},
		"any but":            {rules: []string{"not from W lookup 101"}},
		"to":                 {rules: []string{"to C lookup 102"}, tcp: true, udp: true},
		"interface":          {rules: []string{"iif br0 lookup 102"}, tcp: true, udp: true},
		"mark": {rules: []string{"fwmark 2 lookup 102"}, tcp: true, udp: true, admin: `chain p { type filter hook prerouting priority mangle;
			iifname "wan2" ct state new ct mark set 2
			iifname "br0" meta mark set ct mark
		}`},
		"mark before address": {rules: []string{"from W lookup 101", "fwmark 2 lookup 102"}, tcp: true, udp: true, copied: true, admin: `chain p {
			type filter hook prerouting priority mangle - 1;
			iifname "wan2" ct state new ct mark set 2
			iifname "br0" meta mark set ct mark
		}`},
	} {
		t.Run(name, func(t *testing.T) {
			for _, f := range uplinkFamilies() {
				for _, rule := range tt.rules {
					if strings.Contains(rule, ".") && f.option == "-6" || strings.Contains(rule, ":") && f.option == "-4" {
						continue
					}
					rule = strings.NewReplacer("W", f.wan2.Addr().String(), "P", f.wan2.Masked().String(), "C", f.client.Addr().String()).Replace(rule)
					ip(t, u.host, f.option+" rule add "+rule)
					defer ip(t, u.host, f.option+" rule del "+rule)
				}
			}
			if tt.admin != "" {
				load(t, u.host, "table inet admin {\n"+tt.admin+"\n}")
				defer nft(t, u.host, "delete", "table", "inet", "admin")
			}
			if tt.copied {
				await(t, "rules", func() bool { return len(ownRules(t, u.host)) != 0 })
			}
			for _, f := range uplinkFamilies() {
				for network, want := range map[string]bool{"tcp": tt.tcp, "udp": tt.udp} {
					if !want {
						require.False(t, f.byWan2(u, network, silence), "%s %s", f.option, network)
						continue
					}
					await(t, "an answer over "+network, func() bool { return f.byWan2(u, network, silence) })
				}
			}
			require.Equal(t, tt.copied, len(ownRules(t, u.host)) != 0)
		})
		await(t, "no rules", func() bool { return len(ownRules(t, u.host)) == 0 })
	}
}

// Rules of an engine go with their reason: also if the daemon was killed when that went, with
// the table, and with the last mapping. Those of another engine stay.
func TestUplinkRulesEnd(t *testing.T) {
	u := newUplinks(t)
	rule := func(verb string) {
		for _, f := range uplinkFamilies() {
			ip(t, u.host, f.option+" rule "+verb+" from "+f.wan2.Addr().String()+" lookup 102")
		}
	}
	rule("add")
	s, other := newTestbed(t, u.host), newTestbed(t, u.host)
	daemon := s.serve(t)
	u.publishOn(t, s)
	first := ownRules(t, u.host)
	require.Len(t, first, 8, "they are there when the port is published")

	daemon.Kill()
	rule("del")
	require.Equal(t, first, ownRules(t, u.host))
	s.serve(t)
	require.Empty(t, ownRules(t, u.host))
	rule("add")
	await(t, "the rules", func() bool { return len(ownRules(t, u.host)) == 8 })
	require.Equal(t, first, ownRules(t, u.host), "the same as before")

	// Others delete some.
	ip(t, u.host, "rule flush proto 78")
	await(t, "the rules", func() bool { return len(ownRules(t, u.host)) == 8 })
	require.ElementsMatch(t, first, ownRules(t, u.host))

	// An address goes and comes.
	for _, f := range uplinkFamilies() {
		ip(t, u.host, f.option+" address del "+f.wan2.String()+" dev wan2")
	}
	await(t, "no rules", func() bool { return len(ownRules(t, u.host)) == 0 })
	for _, f := range uplinkFamilies() {
		ip(t, u.host, f.option+" address add "+f.wan2.String()+" dev wan2")
		ip(t, u.host, f.option+" route replace default via "+f.wan2.Addr().Next().String()+" table 102")
	}
	for _, f := range uplinkFamilies() {
		await(t, "an answer", func() bool { return f.byWan2(u, "tcp", silence) && f.byWan2(u, "udp", silence) })
	}

	// Another engine has rules of its own.
	other.serve(t, "--table", "other")
	other.succeed(t, "--table other add tcp 8300 172.30.0.2:80")
	require.Len(t, ownRules(t, u.host), 12)
	s.succeed(t, "purge")
	left := ownRules(t, u.host)
	require.Len(t, left, 4)
	for _, line := range left {
		require.NotContains(t, first, line)
	}
	other.succeed(t, "--table other rm tcp 8300")
	require.Empty(t, ownRules(t, u.host), "nothing is published")

	// Without a daemon.
	s.succeed(t, "--direct add tcp 8080 172.30.0.2:80")
	require.Len(t, ownRules(t, u.host), 4)
	await(t, "an answer", func() bool { return uplinkFamilies()[0].byWan2(u, "tcp", silence) })
	s.succeed(t, "--direct purge")
	require.Empty(t, ownRules(t, u.host))
}
