// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package chains

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/netns"
	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/internal/rules/xt"
)

// Bounds of what is read.
const (
	maxRules    = 1 << 16 // of a chain, or of a file; and the chains of a file
	maxElements = 1 << 16 // of a set
)

var (
	errManyRules  = fmt.Errorf("there are more than %d rules", maxRules)
	errManyChains = fmt.Errorf("there are more than %d chains", maxRules)
)

// Read reads the tables of a network namespace that translate, by an open file descriptor; zero:
// that of the calling thread. The inet table of the name skip is left out.
func Read(ctx context.Context, netNS int, skip string) (*Ruleset, error) {
	r, err := rules.Open(netNS)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // was only read
	r.MaxRules = maxRules
	read, err := r.Read(ctx)
	if err != nil {
		return nil, err
	}
	rs := &Ruleset{Generation: read.Generation}
	links := map[uint32]string{}
	printer := &rules.Printer{XT: xt.Printer{}, Link: func(index uint32) string { return linkName(netNS, links, index) }}
	for _, t := range read.Tables {
		if t.Dormant() || t.Family == unix.NFPROTO_INET && t.Name == skip {
			continue
		}
		maker := NFT
		if t.IPTables() {
			maker = IPTables
		}
		if err := rs.read(t, maker, reader{r, printer}); err != nil {
			return nil, err
		}
	}
	legacy, err := xt.LegacyTables(netNS)
	if err != nil {
		return nil, err
	}
	for _, t := range legacy {
		if t.Name == "nat" {
			if err := rs.read(t, Legacy, reader{r, printer}); err != nil {
				return nil, err
			}
		}
	}
	return rs, nil
}

// linkName returns the name of an interface of a namespace.
func linkName(netNS int, known map[uint32]string, index uint32) string {
	name, ok := known[index]
	if ok {
		return name
	}
	find := func() error {
		if link, err := net.InterfaceByIndex(int(index)); err == nil {
			name = link.Name
		}
		return nil
	}
	if netNS == 0 {
		_ = find() // never fails
	} else if err := netns.Do(netNS, find); err != nil {
		name = ""
	}
	known[index] = name
	return name
}

// reader reads rules and elements, and prints them.
type reader struct {
	*rules.Reader
	printer *rules.Printer
}

// hookOf returns the hook of a chain at which nat sees packets of IP.
func hookOf(c *rules.Chain) Hook {
	if c.Base == nil || c.Base.Type != "nat" && (!c.Table.Legacy || c.Table.Name != "nat") {
		return None
	}
	switch c.Base.Hook {
	case unix.NF_INET_PRE_ROUTING:
		return Prerouting
	case unix.NF_INET_LOCAL_OUT:
		return Output
	case unix.NF_INET_POST_ROUTING:
		return Postrouting
	}
	return None
}

// read adds a table, if it has a chain that translates.
func (rs *Ruleset) read(from *rules.Table, maker Maker, r reader) error {
	t := &Table{Family: uint8(from.Family), Name: from.Family.String() + " " + from.Name, Maker: maker, age: from.Handle}
	switch from.Family {
	case unix.NFPROTO_INET:
		t.Four, t.Six = true, true
	case unix.NFPROTO_IPV4:
		t.Four = true
	case unix.NFPROTO_IPV6:
		t.Six = true
	default:
		return nil
	}
	translates := false
	for _, c := range from.Chains {
		hook := hookOf(c)
		translates = translates || hook != None
		own := &Chain{Name: c.Name, Hook: hook, age: c.Handle}
		if c.Base != nil {
			own.Priority, own.Drops = c.Base.Priority, c.Base.Policy == nfDrop
		}
		t.add(own)
	}
	if !translates {
		return nil
	}
	rs.Tables = append(rs.Tables, t)
	for i, c := range from.Chains {
		if c.Base != nil && t.Chains[i].Hook == None {
			continue
		}
		list, err := r.Rules(c)
		if err != nil {
			return err
		}
		for _, rule := range list {
			compiled, err := r.compile(t, t.Chains[i], rule)
			if err != nil {
				return err
			}
			if err := rs.count(compiled...); err != nil {
				return err
			}
			t.Chains[i].Rules = append(t.Chains[i].Rules, compiled...)
		}
	}
	return nil
}

const (
	nfDrop   = 0
	nfAccept = 1
)

// Origin says where a rule is, and what it is.
func (r *Rule) Origin() string {
	text := fmt.Sprintf("table %s, chain %s: %s", r.Chain.Table.Name, r.Chain.Name, r.Text)
	switch r.Chain.Table.Maker {
	case IPTables, Legacy, Saved:
		text = r.Command() + " " + r.Text
	case NFT:
	}
	return text
}

// Command is the program that lists the rule, with the table.
func (r *Rule) Command() string {
	name := "iptables"
	if r.Chain.Table.Six {
		name = "ip6tables"
	}
	if r.Chain.Table.Maker == Legacy {
		name += "-legacy"
	}
	return name + " -t nat"
}

// Address names the rule by its table, chain and handle.
func (r *Rule) Address() string {
	return fmt.Sprintf("table %s chain %s handle %s", r.Chain.Table.Name, r.Chain.Name, strconv.FormatUint(r.Handle, 10))
}
