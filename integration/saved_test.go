// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// noFlags is the line of flags of a table whose flags nft(8) does not know.
var noFlags = regexp.MustCompile(`(?m)^\tflags $`)

// withoutOurTable is the sed command of docs/beside.md.
const withoutOurTable = `/^table inet nftnat {/,/^}/d`

// What nft(8) lists of a host loads on another one, such as the same after a reboot: always if
// the daemon has ended cleanly, or if the table was not owned. The other states are as
// docs/beside.md says, and without nftnat's table each of them loads.
func TestSavedRuleset(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	load(t, top.Host, "table inet mine { chain input { type filter hook input priority filter; tcp dport 22 accept; }; }")
	boot := labtest.NewNS(t, "boot")
	// tried loads a ruleset on a host that has booted, and returns its tables.
	tried := func(ruleset string) (labtest.Result, string) {
		nft(t, boot, "flush", "ruleset")
		cmd := command(t, "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(ruleset)
		r := labtest.Run(t, boot, cmd)
		return r, tablesOf(t, boot)
	}
	const mine, both = "table inet mine\n", "table inet mine\ntable inet nftnat\n"
	s, p := ownedTestbed(t, top)
	s.fill(t)
	end := func() {
		require.NoError(t, p.Signal(unix.SIGTERM))
		require.Zero(t, p.Wait())
	}
	for _, state := range []string{"served", "killed", "ended", "open", "open, ended"} {
		switch state {
		case "served":
		case "killed":
			p.Kill()
		case "ended":
			p = s.serve(t)
			end()
		case "open":
			p = s.serve(t, "--no-owner")
		default:
			end()
		}
		saved := labtest.Exec(t, top.Host, "nft", "list", "ruleset")
		r, tables := tried(saved)
		persists := strings.Contains(saved, "persist") // this nft knows it
		switch {
		case state == "killed" && !persists:
			require.Regexp(t, noFlags, saved)
			require.NotZero(t, r.Code)
			require.Empty(t, tables)
		case state == "served" && !persists:
			require.Zero(t, r.Code, r.Stderr)
			require.Equal(t, mine, tables, "the owner was nft(8), which has ended")
		default:
			require.Zero(t, r.Code, "%s: %s", state, r.Stderr)
			require.Equal(t, both, tables, state)
		}
		if state == "ended" {
			require.Equal(t, withoutClocks(labtest.SpellNFT(saved)), withoutClocks(nft(t, boot, "list", "ruleset")))
			require.NotContains(t, saved, "owner")
		}
		r, tables = tried(labtest.ExecInput(t, top.Host, saved, "sed", withoutOurTable))
		require.Zero(t, r.Code, r.Stderr)
		require.Equal(t, mine, tables, state)

		// On the host itself.
		script := "flush ruleset\n" + saved
		cmd := command(t, "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		r = labtest.Run(t, top.Host, cmd)
		require.Equal(t, state == "served" || state == "killed" && !persists, r.Code != 0, "%s: %s", state, r.Stderr)
		load(t, top.Host, labtest.ExecInput(t, top.Host, script, "sed", withoutOurTable))
		switch state {
		case "served":
			labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
			require.Zero(t, s.status(t).Table.Repaired)
		case "open":
			await(t, "the daemon to repair", func() bool { return tablesOf(t, top.Host) == both })
		default: // the flush took it
			require.Equal(t, mine, tablesOf(t, top.Host))
			load(t, top.Host, "flush ruleset\n"+strings.ReplaceAll(strings.ReplaceAll(saved, "\tflags \n", ""), "\tflags persist\n", ""))
			labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
		}
	}
}

// tablesOf are the tables of a host, sorted.
func tablesOf(t *testing.T, ns *lab.NS) string {
	t.Helper()
	lines := slices.Sorted(strings.Lines(nft(t, ns, "list", "tables")))
	return strings.Join(lines, "")
}

// An older ruleset is loaded before the daemon, as nftables.service does at boot: what was
// removed, replaced, detached or purged since does not come back, for packets neither, and a UDP
// flow that began in between ends. What a command has published in between stays.
func TestOlderRuleset(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "one", ":80")
		labtest.Echo(t, top.Backend2, network, "two", ":80")
	}
	for _, args := range [][]string{nil, {"--no-owner"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			s, path := newTestbed(t, top.Host), stateFile(t)
			args := append(args, "--state", path)
			p := s.serve(t, args...)
			for _, line := range []string{
				"add tcp 2222 172.30.0.2:80 --name ssh", "add udp 2222 [fd00:30::2]:80", "add udp 2223 172.30.0.2:80 --no-proxy",
				"add tcp 192.0.2.1:3000 172.30.0.2:80", "add tcp 4000 172.30.0.2:80", "add tcp 5000-5009 172.30.0.2:6000-6009",
				"network create gone 10.77.0.0/24", "attach old --network gone -p 7000:80", "add tcp 8080 172.30.0.2:80 --name web",
				"add tcp 9000 172.30.0.2:80 --ttl 1h",
			} {
				s.succeed(t, line)
			}
			end := func() {
				require.NoError(t, p.Signal(unix.SIGTERM))
				require.Zero(t, p.Wait())
			}
			end() // what nft(8) saves of an owned table does not stay
			saved := labtest.Exec(t, top.Host, "nft", "list", "ruleset")
			p = s.serve(t, args...)
			for _, line := range []string{
				"rm tcp 2222", "rm udp 2222", "rm udp 2223", "rm tcp 192.0.2.1:3000", "add tcp 4000 172.30.0.3:80 --replace",
				"rm tcp 5003-5005", "detach old", "network rm gone",
				"add tcp 9000 172.30.0.2:80 --ttl 2h",
			} {
				s.succeed(t, line)
			}
			want := s.export(t)
			boot := func() {
				p.Kill()
				load(t, top.Host, "flush ruleset\n"+saved)
			}
			boot()
			flow := dialFlow(t, top.Client, "udp", "192.0.2.1:2223")
			require.Equal(t, "one", flow.name(t))
			s.succeed(t, "--direct add tcp 8081 172.30.0.3:80")
			p = s.serve(t, args...)
			s.succeed(t, "rm tcp 8081")
			require.Equal(t, want, s.export(t))
			require.Contains(t, p.Output(), `because it had been removed or replaced: was=2222->172.30.0.2:80`)
			require.Greater(t, expires(t, top.Host, "tcp4")["9000"], time.Hour, "the file's end")
			require.ErrorIs(t, flow.refused(t), unix.ECONNREFUSED)
			for _, gone := range []struct{ network, addr string }{
				{"tcp", "192.0.2.1:2222"}, {"udp", "[2001:db8::1]:2222"}, {"udp", "192.0.2.1:2223"}, {"tcp", "192.0.2.1:3000"}, {"tcp", "192.0.2.1:7000"},
			} {
				require.Error(t, labtest.NoAnswer(t, top.Client, gone.network, gone.addr))
			}
			labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:4000", "two")
			labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "one")

			// What a command publishes again after the table was lost is there, though it was
			// removed before.
			p.Kill()
			load(t, top.Host, "flush ruleset")
			s.succeed(t, "--direct add tcp 2222 172.30.0.2:80 --name ssh")
			p = s.serve(t, args...)
			labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:2222", "one")
			s.succeed(t, "rm tcp 2222")
			require.Equal(t, want, s.export(t))

			s.succeed(t, "purge")
			require.Zero(t, p.Wait())
			load(t, top.Host, "flush ruleset\n"+saved)
			p = s.serve(t, args...)
			require.Equal(t, exportOf("mappings: []\n"), s.succeed(t, "export"))
			end()
			load(t, top.Host, "flush ruleset")
		})
	}
}
