// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nftnat/nftnat/migrate/internal/chains"
	"github.com/nftnat/nftnat/nat"
)

// Bounds of what one rule publishes.
const (
	maxRuns  = 1024 // mappings
	allPorts = 60_000
	maxAddrs = 64
)

// readRules reads the rules of all tables, from the kernel or from a file.
func readRules(ctx context.Context, o Options) (*chains.Ruleset, error) {
	if o.File != "" {
		parse := chains.Parse
		if o.Source == NFTables {
			parse = func(data []byte) (*chains.Ruleset, error) {
				if err := checkJSON(data, maxRuleValues); err != nil {
					return nil, err
				}
				return chains.ParseJSON(data, o.Table)
			}
		}
		rs, err := parse(o.Data)
		if err != nil {
			return nil, o.badFile(err.Error())
		}
		return rs, nil
	}
	if o.NetNS == "" {
		return chains.Read(ctx, 0, o.Table)
	}
	ns, err := os.Open(o.NetNS)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	defer func() { _ = ns.Close() }() // nothing was written
	return chains.Read(ctx, int(ns.Fd()), o.Table)
}

// walk notes what rules do to packets.
func (h *host) walk(rs *chains.Ruleset) (err error) {
	if h.prerouting, err = rs.Walk(chains.Prerouting); err != nil {
		return err
	}
	h.postrouting, err = rs.Walk(chains.Postrouting)
	return err
}

// owns reports whether a rule is one of the source's.
func (s Source) owns(r *chains.Rule) bool {
	chain, table := r.Chain.Name, r.Chain.Table.Name
	_, name, _ := strings.Cut(table, " ")
	lower := strings.ToLower(chain)
	switch s {
	case Docker:
		return chain == "DOCKER" || name == "docker-bridges"
	case CNI:
		return strings.HasPrefix(chain, "CNI-") || name == "cni_hostport"
	case Netavark:
		return strings.HasPrefix(chain, "NETAVARK") || name == "netavark"
	case Miniupnpd:
		return strings.Contains(lower, "miniupnpd") || strings.HasPrefix(lower, "upnp_")
	case IPTables:
		return r.Chain.Table.Maker != chains.NFT
	case NFTables:
		return r.Chain.Table.Maker == chains.NFT
	}
	return false
}

// others notes which other source a rule is of, which has more than rules say.
func (s Source) others(r *chains.Rule) []string {
	if s != IPTables && s != NFTables {
		return nil
	}
	for _, o := range []Source{Docker, CNI, Netavark, Miniupnpd} {
		if o.owns(r) {
			return []string{fmt.Sprintf("nftnat import %s has it as well, with what is not in rules", o)}
		}
	}
	return nil
}

// rules imports rules.
func (im *Import) rules(ctx context.Context, o Options, h *host) error {
	rs, err := readRules(ctx, o)
	if err != nil {
		return err
	}
	im.From = "the rules of this host"
	if o.File != "" {
		im.From = o.File
	}
	if err := h.walk(rs); err != nil {
		return err
	}
	im.claims(h, o.Now, o.Source.owns)
	im.narrowed(h)
	im.unreached(rs, h, o.Source.owns)
	return nil
}

// claims adds what rules of the prerouting hook translate.
func (im *Import) claims(h *host, now time.Time, wanted func(*chains.Rule) bool) {
	var order []*chains.Rule
	of := map[*chains.Rule][]chains.Claim{}
	for _, c := range h.prerouting {
		if !wanted(c.Rule) {
			continue
		}
		if of[c.Rule] == nil {
			order = append(order, c.Rule)
		}
		of[c.Rule] = append(of[c.Rule], c)
	}
	for _, r := range order {
		im.claim(h, now, r, of[r])
	}
}

// narrowed drops entries for some clients only, if other clients of their ports are translated
// elsewhere: once a port is published for some, nobody else gets through.
func (im *Import) narrowed(h *host) {
	at := map[uint16][]chains.Claim{}
	var wide []chains.Claim
	for _, c := range h.prerouting {
		if c.Last-c.First >= 64 {
			wide = append(wide, c)
			continue
		}
		for port := int(c.First); port <= int(c.Last); port++ {
			at[uint16(port)] = append(at[uint16(port)], c)
		}
	}
	for i, e := range im.Entries {
		m := e.Mapping
		if m.From == (nat.Sources{}) {
			continue
		}
		elsewhere := func(c chains.Claim) bool {
			return isTo(c, m) && (c.Rule.Action == chains.Translate || c.Rule.Action == chains.Redirect) && !slices.Contains(e.Origins, c.Rule.Origin())
		}
		others := [][]chains.Claim{wide}
		for port := int(m.Frontend.Port()); port <= int(m.Frontend.Port())+int(m.More); port++ {
			others = append(others, at[uint16(port)])
		}
		for _, list := range others {
			if j := slices.IndexFunc(list, elsewhere); j >= 0 {
				im.drop[i] = "it is for some clients only, and others are led elsewhere: " + list[j].Rule.Origin()
				break
			}
		}
	}
}

// markedBy is a reason: the rule that marks packets follows.
const markedBy = "its packets are marked, which nftnat does not do, by "
