// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package difftest

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
)

// scenario is a ruleset, a state of the host, and who calls.
type scenario struct {
	seed     uint64
	tables   []*table
	iptables []*xtables
	changes  []change
	clients  []client
	// How often rules and policies drop, of 100.
	drops, policies int
	limits          bool // there may be conditions that nobody can know
	unknowable      bool // and there are
	routed          bool // a route leads to a router that does not forward
	afterwards      bool // explain is asked when the client has tried
}

// change is something about the state of a namespace.
type change struct {
	ns       *lab.NS
	do, undo string // lines of ip(8)
	// sysctl is a setting of the host, in place of the lines.
	sysctl, value, before string
}

func (c change) String() string {
	if c.sysctl != "" {
		return fmt.Sprintf("sysctl -w %s=%s # %s", c.sysctl, c.value, c.ns)
	}
	var b strings.Builder
	for line := range strings.Lines(c.do) {
		fmt.Fprintf(&b, "ip %s # %s\n", strings.TrimSpace(line), c.ns)
	}
	return strings.TrimSpace(b.String())
}

// callsOfScenario is how many clients call in each.
const callsOfScenario = 16

// newScenario makes a scenario from a seed.
func (s *site) newScenario(seed uint64) *scenario {
	sc := &scenario{seed: seed}
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 15)), site: s, sc: sc}
	all := s.clients()
	for len(sc.clients) < callsOfScenario {
		c := one(g, all...)
		keep := 60
		switch {
		case c.addr.IsLoopback():
			keep = 40
		case c.hole, c.mapping.Backend.Port() == silentPort:
			keep = 15
		case c.ns == s.client || c.ns == s.other:
			keep = 100
		case c.ns == s.host:
			keep = 25
		}
		if g.percent(keep) {
			sc.clients = append(sc.clients, c)
		}
	}
	sc.drops, sc.policies = one(g, 5, 12, 20, 35), one(g, 5, 15, 35)
	sc.limits = g.percent(12)
	if !g.percent(12) {
		for range 1 + g.IntN(4) {
			sc.tables = append(sc.tables, g.ruleset())
		}
	}
	if g.percent(20) {
		sc.iptables = append(sc.iptables, g.iptables(false))
	}
	if g.percent(12) {
		sc.iptables = append(sc.iptables, g.iptables(true))
	}
	if g.percent(35) {
		for range 1 + g.IntN(2) {
			sc.changes = append(sc.changes, g.change0())
		}
	}
	return sc
}

// text returns tables in the language of nft(8), and which rule, set or chain is in which line.
func (sc *scenario) text(elder bool) (string, map[int]func()) {
	var b strings.Builder
	drop := map[int]func(){}
	line := 0
	add := func(text string, remove func()) {
		line++
		drop[line] = remove
		b.WriteString(text + "\n")
	}
	for ti, t := range sc.tables {
		if t.elder != elder {
			continue
		}
		removeTable := func() { sc.tables = slices.Delete(slices.Clone(sc.tables), ti, ti+1) }
		add(fmt.Sprintf("table %s %s {", t.family, t.name), removeTable)
		if t.dormant {
			add("\tflags dormant;", removeTable)
		}
		for i, set := range t.sets {
			add("\t"+set, func() { t.sets = slices.Delete(slices.Clone(t.sets), i, i+1) })
		}
		for i, c := range t.chains {
			removeChain := func() { t.chains = slices.Delete(slices.Clone(t.chains), i, i+1) }
			add("\tchain "+c.name+" {", removeChain)
			if c.base != "" {
				add("\t\t"+c.base, removeChain)
			}
			for j, r := range c.rules {
				add("\t\t"+r, func() { c.rules = slices.Delete(slices.Clone(c.rules), j, j+1) })
			}
			add("\t}", removeChain)
		}
		add("}", removeTable)
	}
	return b.String(), drop
}

// names are the tables that a scenario makes.
func (sc *scenario) names() (names []string) {
	for _, t := range sc.tables {
		names = append(names, t.family+" "+t.name)
	}
	for _, x := range sc.iptables {
		if strings.Contains(x.tool, "legacy") {
			continue
		}
		family := "ip"
		if strings.HasPrefix(x.tool, "ip6") {
			family = "ip6"
		}
		for _, t := range x.tables {
			names = append(names, family+" "+t.name)
		}
	}
	return names
}

var (
	nftLine = regexp.MustCompile(`(?m)^/dev/stdin:(\d+):`)
	xtLine  = regexp.MustCompile(`(?m)(?:line |failed at: )(\d+)|line: (\d+)`)
)

// load makes the kernel have the scenario. Rules that nft or iptables refuses are left out, if
// repair is set; else load fails.
func (s *site) load(sc *scenario, repair bool) error {
	s.Helper()
	for {
		remove := ""
		for _, t := range s.tables {
			remove += "add table " + t + "\ndelete table " + t + "\n"
		}
		elder, elderLines := sc.text(true)
		middle := ""
		if elder != "" {
			middle = "delete table inet nftnat\n" + s.nftnat
		}
		young, youngLines := sc.text(false)
		out, err := s.try(s.host, remove+elder+middle+young, "nft", "-f", "/dev/stdin")
		if err == nil {
			break
		}
		if !repair {
			return fmt.Errorf("%w: %s", err, out)
		}
		m := nftLine.FindStringSubmatch(out)
		if m == nil {
			s.Fatalf("seed %d: nft: %s\n%s", sc.seed, out, elder+young)
		}
		n, _ := strconv.Atoi(m[1])
		n -= strings.Count(remove, "\n")
		drop := elderLines[n]
		if drop == nil {
			drop = youngLines[n-strings.Count(elder+middle, "\n")]
		}
		if drop == nil {
			s.Fatalf("seed %d: nft: %s\n%s", sc.seed, out, elder+young)
		}
		s.refuse(strings.SplitN(out, "\n", 3))
		drop()
	}
	s.tables = sc.names()
	s.flushConntrack()
	if err := s.loadIptables(sc, repair); err != nil {
		return err
	}
	return s.change(sc, repair)
}

// flushConntrack ends all connections of the host: what is left of the last scenario would be a hint.
func (s *site) flushConntrack() {
	s.Helper()
	s.in(s.host, func() {
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, all{})
			require.NoError(s, err)
		}
	})
}

// all is a filter that all connections match.
type all struct{}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (all) MatchConntrackFlow(*netlink.ConntrackFlow) bool { return true }

// refuse notes what nft did not take.
func (s *site) refuse(lines []string) {
	if s.refused == nil {
		s.refused = map[string]int{}
	}
	key := lines[0]
	if _, after, ok := strings.Cut(key, "Error: "); ok {
		key = after
	}
	s.refused[key]++
	if s.refused[key] == 1 && len(lines) > 1 {
		s.Logf("refused: %s: %s", key, strings.TrimSpace(lines[1]))
	}
}

func (s *site) loadIptables(sc *scenario, repair bool) error {
	s.Helper()
	for tool := range s.legacy {
		var b strings.Builder
		for _, name := range []string{"filter", "nat", "mangle", "raw"} {
			if s.legacy[tool] {
				fmt.Fprintf(&b, "*%s\n", name)
				for _, c := range xtChains[name] {
					fmt.Fprintf(&b, ":%s ACCEPT [0:0]\n", c)
				}
				b.WriteString("COMMIT\n")
			}
		}
		if b.Len() > 0 {
			s.run(s.host, b.String(), tool)
			s.legacy[tool] = false
		}
	}
	for _, x := range sc.iptables {
		for {
			if strings.Contains(x.tool, "legacy") {
				s.legacy[x.tool] = true
			}
			out, err := s.try(s.host, x.String(), x.tool)
			if err == nil {
				break
			}
			if !repair {
				return fmt.Errorf("%w: %s", err, out)
			}
			s.refuse([]string{x.tool + ": " + strings.SplitN(out, "\n", 2)[0], out})
			if !x.without(out) {
				s.Fatalf("seed %d: %s: %s\n%s", sc.seed, x.tool, out, x)
			}
		}
	}
	return nil
}

// without removes the rule that a message is about.
func (x *xtables) without(message string) bool {
	m := xtLine.FindStringSubmatch(message)
	if m == nil {
		return false
	}
	n, _ := strconv.Atoi(m[1] + m[2])
	for _, t := range x.tables {
		n -= 1 + len(t.chains)
		if n >= 1 && n <= len(t.rules) {
			t.rules = slices.Delete(slices.Clone(t.rules), n-1, n)
			return true
		}
		if n == len(t.rules)+1 && len(t.rules) > 0 { // COMMIT: any of them
			t.rules = t.rules[:len(t.rules)-1]
			return true
		}
		n -= len(t.rules) + 1
	}
	return false
}

// undo takes back what a change has done. A later one may have taken a part of it with it, as a link that
// goes down does with its routes.
func (s *site) undo(c change) {
	s.Helper()
	for line := range strings.Lines(c.undo) {
		out, err := s.tryIP(c.ns, line)
		if err != nil && !strings.Contains(out, "No such process") && !strings.Contains(out, "already assigned") && !strings.Contains(out, "File exists") {
			s.Fatalf("ip in %s: %v\n%s\n%s", c.ns, err, out, line)
		}
	}
}

// change undoes the last scenario's changes of state, and makes those of this one.
func (s *site) change(sc *scenario, repair bool) error {
	s.Helper()
	for _, c := range slices.Backward(s.changed) {
		if c.sysctl != "" {
			require.NoError(s, c.ns.Sysctl(c.sysctl, c.before))
		} else {
			s.undo(c)
		}
	}
	s.changed = nil
	for _, c := range slices.Clone(sc.changes) {
		if c.sysctl != "" {
			var err error
			c.before, err = c.ns.ReadSysctl(c.sysctl)
			require.NoError(s, err)
			require.NoError(s, c.ns.Sysctl(c.sysctl, c.value))
		} else if out, err := s.tryIP(c.ns, c.do); err != nil {
			if !repair {
				return fmt.Errorf("%s: %w: %s", c, err, out)
			}
			s.refuse([]string{"ip: " + out})
			_, _ = s.tryIP(c.ns, c.undo) // what was done of it
			sc.changes = slices.DeleteFunc(slices.Clone(sc.changes), func(o change) bool { return o == c })
			continue
		}
		s.changed = append(s.changed, c)
	}
	return nil
}

// String is a script.
func (sc *scenario) String() string {
	elder, _ := sc.text(true)
	young, _ := sc.text(false)
	var b strings.Builder
	if elder != "" {
		fmt.Fprintf(&b, "# before the table of nftnat:\n%s# after it:\n", elder)
	}
	b.WriteString(young)
	for _, x := range sc.iptables {
		fmt.Fprintf(&b, "# %s\n%s", x.tool, x)
	}
	for _, c := range sc.changes {
		fmt.Fprintln(&b, c)
	}
	return b.String()
}
