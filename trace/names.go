// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

// names finds what the events name: rules by their handles, and hooks of chains.
type names struct {
	reader *rules.Reader
	now    *rules.Ruleset
	// before is the ruleset before now: events may name rules that have just gone.
	before  *rules.Ruleset
	read    time.Time
	printer rules.Printer
}

// pauseNames is the shortest time between two reads of the rules.
const pauseNames = 200 * time.Millisecond

// refresh reads tables and chains anew if they have changed. What cannot be read stays as it was: the kernel gives up
// if others change it all the time.
func (n *names) refresh(ctx context.Context) {
	if n.now != nil {
		if time.Since(n.read) < pauseNames {
			return
		}
		if changed, err := n.reader.Changed(); err != nil || !changed {
			return
		}
	}
	n.read = time.Now()
	rs, err := n.reader.Read(ctx)
	if err == nil {
		n.before, n.now = n.now, rs
	}
}

// generation is that of the rules as they were read.
func (n *names) generation() uint32 {
	if n.now == nil {
		return 0
	}
	return n.now.Generation
}

// chain finds a chain.
func (n *names) chain(family uint8, table, chain string) *rules.Chain {
	for _, rs := range []*rules.Ruleset{n.now, n.before} {
		if rs == nil {
			continue
		}
		for _, t := range rs.Tables {
			if uint8(t.Family) == family && t.Name == table && !t.Legacy {
				if c := t.Chain(chain); c != nil {
					return c
				}
			}
		}
	}
	return nil
}

// rule is the text of a rule. One that has gone is named by its handle.
func (n *names) rule(family uint8, table, chain string, handle uint64) string {
	for range 2 {
		c := n.chain(family, table, chain)
		if c != nil {
			list, _ := n.reader.Rules(c) // one that cannot be read is named by its handle
			for _, r := range list {
				if r.Handle == handle {
					return n.printer.Rule(r)
				}
			}
		}
		n.refresh(context.Background())
	}
	return fmt.Sprintf("rule with handle %d", handle)
}

// hookText names the hook of a base chain; "" for others.
func hookText(family uint8, hook uint32) string {
	switch family {
	case unix.NFPROTO_NETDEV:
		return [...]string{"ingress", "egress"}[hook&1]
	case unix.NFPROTO_ARP:
		return [...]string{"input", "output", "forward"}[min(hook, 2)]
	}
	return [...]string{"prerouting", "input", "forward", "output", "postrouting", "ingress"}[min(hook, 5)]
}

func (t *Tracer) refresh(ctx context.Context) { t.names.refresh(ctx) }

func (t *Tracer) hook(family uint8, table, chain string) string {
	if c := t.names.chain(family, table, chain); c != nil && c.Base != nil {
		return hookText(family, c.Base.Hook)
	}
	return ""
}

func (t *Tracer) rule(family uint8, table, chain string, handle uint64) string {
	return t.names.rule(family, table, chain, handle)
}

func (t *Tracer) link(index int) string { return t.host.link(index) }

func (t *Tracer) neighbour(link string, addr netip.Addr) string { return t.host.neighbour(link, addr) }

// flowtables names the flow tables, which forward packets of known connections past the rules.
func (t *Tracer) flowtables() (list []string) {
	if t.names.now == nil {
		return nil
	}
	for _, table := range t.names.now.Tables {
		for _, name := range slices.Sorted(maps.Keys(table.Flowtables)) {
			list = append(list, "flowtable "+table.Family.String()+" "+table.Name+" "+name+", which forwards past the rules")
		}
	}
	return list
}
