// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// A port that another table translates too is published with a notice, and status warns of it
// as long as it is so. Both say truly which of the two gets the packets.
func TestRivals(t *testing.T) {
	const firstSays, laterSays = ", and gets it first", ", but nftnat gets it first"
	for name, c := range map[string]struct {
		table, priority string // of the rival
		before          bool   // it was there before nftnat's table
		wins            bool
	}{
		"before":                {"ip", "dstnat", true, false},
		"after":                 {"ip", "dstnat", false, true},
		"before, inet":          {"inet", "dstnat", true, false},
		"after, inet":           {"inet", "dstnat", false, true},
		"before, first by rank": {"ip", "-110", true, true},
		"after, last by rank":   {"ip", "-90", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
			s := newTestbed(t, top.Host)
			labtest.Echo(t, top.Backend1, "tcp", "ours", ":80")
			labtest.Echo(t, top.Backend2, "tcp", "rival", ":80")
			to := "dnat to "
			if c.table == "inet" {
				to = "dnat ip to "
			}
			rival := fmt.Sprintf("table %s cni_hostport { chain pre { type nat hook prerouting priority %s; fib daddr type local tcp dport 8080 %s %s; }; }",
				c.table, c.priority, to, at(top.Backend2.V4, 80))
			if c.before {
				load(t, top.Host, rival)
			}
			line := "table " + c.table + " cni_hostport also translates tcp 8080 in chain pre"
			winner, says := "ours", laterSays
			if c.wins {
				winner, says = "rival", firstSays
			}
			r := s.run(t, "add tcp 8080 "+at(top.Backend1.V4, 80))
			require.Zero(t, r.Code, r.Stderr)
			if c.before {
				require.Contains(t, r.Stderr, "nftnat: "+line+says+"\n")
			} else {
				require.NotContains(t, r.Stderr, "cni_hostport")
				require.Empty(t, s.status(t).Warnings)
				load(t, top.Host, rival)
				s.succeed(t, "rm tcp 8080")
				r := s.run(t, "add tcp 8080 "+at(top.Backend1.V4, 80))
				require.Equal(t, "nftnat: "+line+says+"\n", r.Stderr)
			}
			require.Equal(t, []string{line + says}, s.status(t).Warnings)
			labtest.Reaches(t, top.Client, "tcp", at(top.Host.V4, 8080), winner)
			load(t, top.Host, "delete table "+c.table+" cni_hostport")
			require.Empty(t, s.status(t).Warnings)
		})
	}
}

// The chain of a table that was there before can be added later than nftnat's. That is known
// to the daemon that created the table, and else said to be unknown.
func TestRivalChainAddedLater(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	load(t, top.Host, "table ip nat { chain post { type nat hook postrouting priority srcnat; }; }")
	s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80")
	load(t, top.Host, "table ip nat { chain pre { type nat hook prerouting priority dstnat; tcp dport 8080 redirect to :1; }; }")
	require.Equal(t, []string{"table ip nat also translates tcp 8080 in chain pre, and gets it first"}, s.status(t).Warnings)
	r := s.run(t, "--direct status")
	require.Contains(t, r.Stdout+r.Stderr, "table ip nat also translates tcp 8080 in chain pre; of the two base chains the one that was added last gets it")
}

// Many are counted, attach and apply say it too, and those for other packets are not rivals.
func TestRivalsOfMany(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	load(t, top.Host, `table ip other {
		chain pre { type nat hook prerouting priority dstnat; udp dport 8000-8199 redirect to :1; ip daddr 192.0.2.9 tcp dport 80 redirect to :1; iifname "nosuch" tcp dport 443 redirect to :1; }
		chain out { type nat hook output priority -100; tcp dport 22 redirect to :1; }
	}`)
	r := s.run(t, "add udp 8000-8099 172.30.0.2:9000-9099")
	require.Zero(t, r.Code)
	require.Equal(t, 16, strings.Count(r.Stderr, "table ip other also translates udp 80"))
	require.Contains(t, r.Stderr, "nftnat: other tables translate 84 more published ports too\n")
	require.Len(t, s.status(t).Warnings, 17)
	// A range is one.
	require.Equal(t, "nftnat: table ip other also translates udp 8100-8199 in chain pre, but nftnat gets it first\n",
		s.run(t, "add udp 8100-8199 172.30.0.2").Stderr)
	require.NotContains(t, s.run(t, "add tcp 8000 172.30.0.2:80").Stderr, "other")
	require.NotContains(t, s.run(t, "add tcp 192.0.2.1:80 172.30.0.2:80").Stderr, "other")
	require.NotContains(t, s.run(t, "add tcp [::]:443 [fd00:30::2]:80").Stderr, "other")
	require.Empty(t, s.run(t, "add --quiet tcp 192.0.2.9:80 172.30.0.2:80").Stderr)
	s.succeed(t, "network create inside 172.30.0.0/24")
	require.Contains(t, s.run(t, "attach web --network inside --ip 172.30.0.2 -p 192.0.2.1:443:443 -p 22:22").Stderr,
		"table ip other also translates some connections to tcp 192.0.2.1:443 in chain pre, but nftnat gets it first\n"+
			"nftnat: table ip other also translates tcp 22 for this host itself in chain out, but nftnat gets it first\n")
}
