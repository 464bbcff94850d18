// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/rules"
)

// names are the legacy tables that a namespace has, by family.
func names(t *testing.T, ns *lab.NS) string {
	t.Helper()
	var out strings.Builder
	require.NoError(t, ns.Do(func() error {
		for _, f := range legacyFamilies() {
			text, err := os.ReadFile("/proc/thread-self/net/" + f.names)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, "%s: %s\n", f.names, strings.Join(strings.Fields(string(text)), " "))
		}
		return nil
	}))
	return out.String()
}

// TestLegacyMakesNone: reading makes no table, neither where there is none nor beside others.
func TestLegacyMakesNone(t *testing.T) {
	ns := labtest.NewNS(t, "none")
	before := names(t, ns)
	require.Equal(t, "ip_tables_names: \nip6_tables_names: \narp_tables_names: \n", before)
	require.Empty(t, readLegacy(t, ns))
	require.Equal(t, before, names(t, ns))

	labtest.Exec(t, ns, "iptables-legacy", "-t", "mangle", "-P", "FORWARD", "DROP")
	labtest.Exec(t, ns, "ip6tables-legacy", "-t", "raw", "-L")
	before = names(t, ns)
	require.Equal(t, "ip_tables_names: mangle\nip6_tables_names: raw\narp_tables_names: \n", before)
	require.Len(t, readLegacy(t, ns), 2)
	require.Equal(t, before, names(t, ns))
}

// TestLegacyUnused: which modules have tables, where the list of tables cannot be read.
func TestLegacyUnused(t *testing.T) {
	dir := t.TempDir()
	ip := legacyFamilies()[0]
	require.False(t, ip.unused(dir), "built in")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "ip_tables", "parameters"), 0o755))
	require.False(t, ip.unused(dir), "built in, with parameters")
	holders := filepath.Join(dir, "ip_tables", "holders")
	require.NoError(t, os.Mkdir(holders, 0o755))
	require.True(t, ip.unused(dir))
	require.NoError(t, os.Symlink("../../iptable_filter", filepath.Join(holders, "iptable_filter")))
	require.False(t, ip.unused(dir))
}

// TestLegacyChains: chains, their hooks and priorities, policies, jumps, gotos and counters.
func TestLegacyChains(t *testing.T) {
	ns := labtest.NewNS(t, "chains")
	labtest.ExecInput(t, ns, `*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [7:8]
:OUTPUT ACCEPT [0:0]
:a - [0:0]
:empty - [0:0]
:last - [0:0]
[5:300] -A FORWARD -i eth0 -j a
-A FORWARD -g last
-A FORWARD
-A a -j empty
-A a -j RETURN
-A last -p tcp -m comment --comment "no more" -j DROP
COMMIT
*nat
COMMIT
*raw
COMMIT
*mangle
COMMIT
*security
COMMIT
`, "iptables-legacy-restore", "--counters")
	tables := map[string]*rules.Table{}
	for _, table := range readLegacy(t, ns) {
		require.True(t, table.Legacy)
		require.Equal(t, rules.Family(unix.NFPROTO_IPV4), table.Family)
		tables[table.Name] = table
	}
	bases := map[string]string{}
	for name, table := range tables {
		for _, c := range table.Chains {
			require.Same(t, table, c.Table)
			if b := c.Base; b != nil {
				bases[name] += fmt.Sprintf("%s %s %d %d %d; ", c.Name, b.Type, b.Hook, b.Priority, b.Policy)
			}
		}
	}
	require.Equal(t, map[string]string{
		"filter":   "INPUT filter 1 0 1; FORWARD filter 2 0 0; OUTPUT filter 3 0 1; ",
		"nat":      "PREROUTING nat 0 -100 1; INPUT nat 1 100 1; OUTPUT nat 3 -100 1; POSTROUTING nat 4 100 1; ",
		"raw":      "PREROUTING filter 0 -300 1; OUTPUT filter 3 -300 1; ",
		"security": "INPUT filter 1 50 1; FORWARD filter 2 50 1; OUTPUT filter 3 50 1; ",
		"mangle": "PREROUTING filter 0 -150 1; INPUT filter 1 -150 1; FORWARD filter 2 -150 1; OUTPUT route 3 -150 1; " +
			"POSTROUTING filter 4 -150 1; ",
	}, bases)

	decisions := func(chain string) (list []string) {
		for i, r := range tables["filter"].Chain(chain).Rules {
			require.Equal(t, i, r.Index)
			text := "none"
			if x, ok := r.Exprs[len(r.Exprs)-1].(rules.Immediate); ok {
				text = fmt.Sprintf("%d %s", x.Decision.Code, x.Decision.Chain)
			}
			list = append(list, text)
		}
		return list
	}
	require.Equal(t, []string{"-3 a", "-4 last", "none"}, decisions("FORWARD"))
	require.Equal(t, []string{"-3 empty", "-5 "}, decisions("a"))
	require.Empty(t, decisions("empty"))
	require.Equal(t, []string{"0 "}, decisions("last"))
	require.Equal(t, "no more", tables["filter"].Chain("last").Rules[0].Comment)
	require.Contains(t, tables["filter"].Chain("FORWARD").Rules[0].Exprs, rules.Counter{Packets: 5, Bytes: 300})
}

// TestLegacyARP: a table that arptables-legacy 0.0.5 made, as the kernel gave it, and one of a kernel.
func TestLegacyARP(t *testing.T) {
	info, err := os.ReadFile("testdata/arp.info")
	require.NoError(t, err)
	entries, err := os.ReadFile("testdata/arp.entries")
	require.NoError(t, err)
	f := legacyFamilies()[2]
	table, err := f.parse("filter", info, entries)
	require.NoError(t, err)
	require.Equal(t, []string{
		"-P INPUT ACCEPT",
		"-P OUTPUT DROP",
		"-P FORWARD ACCEPT",
		"-A INPUT -s 192.0.2.1 ! -d 192.0.2.0/24 -i eth0 -j DROP",
		"-A INPUT --src-mac 02:00:00:00:00:01 ! --dst-mac 02:00:00:00:00:00/ff:ff:ff:00:00:00 -j ACCEPT",
		"-A OUTPUT -o eth+ --opcode 1 -j DROP",
		"-A OUTPUT --opcode 2 -j mangle --mangle-ip-s 192.0.2.9",
	}, Printer{}.Table(table))

	ns := labtest.NewNS(t, "arp")
	require.NoError(t, ns.Do(func() error {
		fd, err := unix.Socket(f.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		_, _, err = f.ask(fd, "filter") // to ask is to make it
		return errors.Join(err, unix.Close(fd))
	}))
	tables := readLegacy(t, ns)
	require.Len(t, tables, 1)
	require.Equal(t, []string{"-P INPUT ACCEPT", "-P OUTPUT ACCEPT", "-P FORWARD ACCEPT"}, Printer{}.Table(tables[0]))
}

// TestLegacyChanging: tables are read whole while a program changes them.
func TestLegacyChanging(t *testing.T) {
	ns := labtest.NewNS(t, "changing")
	labtest.Exec(t, ns, "iptables-legacy", "-N", "x")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 40 {
			labtest.Run(t, ns, exec.Command("iptables-legacy", "-A", "INPUT", "-j", "x"))
			labtest.Run(t, ns, exec.Command("iptables-legacy", "-D", "INPUT", "1"))
		}
	}()
	reads := 0
	for running := true; running; reads++ {
		tables := readLegacy(t, ns)
		require.LessOrEqual(t, len(tables[0].Chain("INPUT").Rules), 1)
		select {
		case <-done:
			running = false
		default:
		}
	}
	t.Logf("%d reads", reads)
}

// TestMalformed: whatever a blob or a table has in it, decoding and printing end.
func TestMalformed(t *testing.T) {
	ns := labtest.NewNS(t, "malformed")
	for program, file := range map[string]string{
		"iptables-legacy-restore": "testdata/ip.rules", "ip6tables-legacy-restore": "testdata/ip6.rules",
	} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		labtest.ExecInput(t, ns, string(text), program)
	}
	random := rand.New(rand.NewPCG(1, 2))
	p := Printer{}
	blobs := 0
	try := func(info []byte, decode func(info []byte)) {
		for n := 0; n < len(info); n += 1 + n/40 {
			decode(info[:n])
		}
		for range 10 {
			b := append([]byte(nil), info...)
			for range 1 + random.IntN(8) {
				if len(b) > 0 {
					b[random.IntN(len(b))] = byte(random.Uint32())
				}
			}
			decode(b)
		}
		blobs++
	}
	for _, table := range readLegacy(t, ns) {
		for _, c := range table.Chains {
			for _, r := range c.Rules {
				for _, e := range r.Exprs {
					switch e := e.(type) {
					case rules.Match:
						for rev := range uint32(5) {
							try(e.Info, func(b []byte) {
								_ = p.Match(table.Family, rules.Match{Name: e.Name, Rev: rev, Info: b})
							})
						}
					case rules.Target:
						for rev := range uint32(5) {
							try(e.Info, func(b []byte) {
								_ = p.Target(table.Family, rules.Target{Name: e.Name, Rev: rev, Info: b})
							})
						}
					}
				}
			}
		}
	}
	require.Greater(t, blobs, 300)

	// Whole tables.
	require.NoError(t, ns.Do(func() error {
		for _, f := range legacyFamilies() {
			for _, name := range []string{"filter", "nat"} {
				if f.family == unix.NFPROTO_ARP {
					continue
				}
				fd, err := unix.Socket(f.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				info, entries, err := f.ask(fd, name)
				if err := unix.Close(fd); err != nil {
					return err
				}
				if err != nil {
					return err
				}
				for range 300 {
					a, b := append([]byte(nil), info...), append([]byte(nil), entries...)
					for range 1 + random.IntN(4) {
						if random.IntN(4) == 0 {
							a[random.IntN(len(a))] = byte(random.Uint32())
						}
						b[random.IntN(len(b))] = byte(random.Uint32())
					}
					if table, err := f.parse(name, a, b[:random.IntN(len(b)+1)]); err == nil {
						_ = p.Table(table)
					}
					if table, err := f.parse(name, a, b); err == nil {
						_ = p.Table(table)
					}
				}
			}
		}
		return nil
	}))
}

// TestRecentLines: lists of the match recent are read as the kernel writes them.
func TestRecentLines(t *testing.T) {
	now := ticks{now: 4294960020, length: 4 * time.Millisecond}
	list, err := parseRecent("src=192.0.2.2 ttl: 64 last_seen: 4294960010 oldest_pkt: 2 4294960000, 4294960010\n"+
		"src=2001:0db8:0000:0000:0000:0000:0000:0002 ttl: 255 last_seen: 7 oldest_pkt: 1 7\n", now)
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, "192.0.2.2", list[0].Addr.String())
	require.Equal(t, []time.Duration{80 * time.Millisecond, 40 * time.Millisecond}, list[0].Ages)
	require.Zero(t, now.since(now.now+3))
	require.Equal(t, 8*time.Millisecond, ticks{now: 1<<32 + 5, length: 4 * time.Millisecond}.since(3), "of a kernel of 32 bits")
	require.Equal(t, "2001:db8::2", list[1].Addr.String())
	for _, text := range []string{"x\n", "src=1 oldest_pkt: 1 1\n", "src=192.0.2.2 oldest_pkt: 1 x\n"} {
		_, err := parseRecent(text, now)
		require.Error(t, err, text)
	}
	_, err = ReadRecent(0, "../x")
	require.Error(t, err)
}

// TestRecentAges: the ages of a list are those of its packets.
func TestRecentAges(t *testing.T) {
	ns := labtest.NewNS(t, "recent")
	labtest.Exec(t, ns, "iptables-legacy", "-A", "INPUT", "-m", "recent", "--set", "--name", "x")
	var list []RecentEntry
	require.NoError(t, ns.Do(func() error {
		begin := time.Now()
		if err := os.WriteFile("/proc/thread-self/net/xt_recent/x", []byte("+192.0.2.7"), 0o600); err != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
		var err error
		list, err = ReadRecent(0, "x")
		require.Len(t, list, 1)
		require.Len(t, list[0].Ages, 1)
		require.InDelta(t, time.Since(begin).Seconds(), list[0].Ages[0].Seconds(), 1.5)
		return err
	}))
}
