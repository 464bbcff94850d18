// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rivals

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

// Bounds of what is read of other programs' tables. What is beyond them says nothing.
const (
	maxRules    = 1 << 14 // of all chains
	maxElements = 1 << 12 // of a set
	maxVisits   = 1 << 10 // of chains, by jumps
	maxClaims   = 1 << 12
	readTime    = time.Second // for all
)

// Reader reads the tables of a network namespace.
type Reader struct {
	netNS  int
	caller string
	rules  *rules.Reader // nil: not open
	last   last
}

// last is what was read last, at that generation of the ruleset, and after so many changes by
// the caller.
type last struct {
	found      *Rivals
	generation uint32
	changes    uint64
}

// NewReader returns a Reader of tables other than the caller's of that name, which is of the inet family.
// The namespace is an open file descriptor; zero: that of the calling thread.
func NewReader(netNS int, table string) *Reader { return &Reader{netNS: netNS, caller: table} }

// Close closes the reader's socket, if it has one. It can be read from again.
func (r *Reader) Close() error {
	if r.rules == nil {
		return nil
	}
	open := r.rules
	r.rules = nil
	return open.Close()
}

// ReadAfter returns what was read last, if nobody but the caller has changed a ruleset since:
// the generation has gone on by the number of changes that the caller has made. Else it reads.
func (r *Reader) ReadAfter(changes uint64) (*Rivals, error) {
	if r.last.found != nil && r.rules != nil {
		now, err := r.rules.Generation(context.Background())
		if err == nil && uint64(now-r.last.generation) == changes-r.last.changes {
			return r.last.found, nil
		}
	}
	return r.Read(changes)
}

// Read reads what the other tables translate. The caller has changed its own table so many
// times, which only ReadAfter needs.
func (r *Reader) Read(changes uint64) (found *Rivals, err error) {
	r.last = last{}
	if r.rules == nil { // it is kept, since to make one takes longer than to read
		if r.rules, err = rules.Open(r.netNS); err != nil {
			return nil, fmt.Errorf("read other tables: %w", err)
		}
		r.rules.MaxRules = maxRules
	}
	ctx, cancel := context.WithTimeout(context.Background(), readTime)
	defer cancel()
	reading := reading{Reader: r.rules, caller: r.caller, found: &Rivals{}, lists: map[*rules.Chain][]*rules.Rule{}, sets: map[*rules.Set]*set{}}
	// Its generation is from before: what changes meanwhile is read again the next time.
	if reading.ruleset, err = r.rules.ListTables(ctx); err == nil {
		err = reading.read()
	}
	if err != nil { // what the socket still has to say would disturb
		return nil, errors.Join(fmt.Errorf("read other tables: %w", err), r.Close())
	}
	r.last = last{reading.found, reading.ruleset.Generation, changes}
	return reading.found, nil
}

// reading is one time that tables are read.
type reading struct {
	*rules.Reader
	caller  string
	ruleset *rules.Ruleset
	found   *Rivals
	lists   map[*rules.Chain][]*rules.Rule
	count   int // of the rules
	visits  int
	listed  bool // sets have been
	sets    map[*rules.Set]*set
}

// baseChain is a chain that the kernel calls with packets.
type baseChain struct {
	*rules.Chain
	id   Base
	hook Hook
}

// ours is the priority of the caller's chains, at both hooks: NF_IP_PRI_NAT_DST in
// include/uapi/linux/netfilter_ipv4.h.
const ours = -100

func (r *reading) read() error {
	var others []*rules.Table
	for _, t := range r.ruleset.Tables {
		switch {
		case t.Dormant():
		case t.Family == unix.NFPROTO_INET && t.Name == r.caller:
			r.found.Table = t.Handle
		case t.Family == unix.NFPROTO_INET, t.Family == unix.NFPROTO_IPV4, t.Family == unix.NFPROTO_IPV6:
			others = append(others, t)
		}
	}
	if r.ruleset.Tables = others; len(others) == 0 {
		return nil
	}
	if err := r.ListChains(r.ruleset); err != nil {
		return err
	}
	r.found.Bases = map[Base]bool{}
	for _, base := range baseChains(others) {
		r.found.Bases[base.id] = true
		order := After
		switch {
		case base.Base.Priority < ours, base.Base.Priority == ours && base.id.Table > r.found.Table:
			order = Before
		case base.Base.Priority == ours:
			order = Unsure
		}
		r.visits = 0
		w := walk{reading: r, base: base, order: order}
		w.chain(base.Chain, []box{whole(familiesOf(base.Table.Family))}, 0)
	}
	return nil
}

func familiesOf(family rules.Family) families {
	switch family {
	case unix.NFPROTO_IPV4:
		return ipv4
	case unix.NFPROTO_IPV6:
		return ipv6
	}
	return ipv4 | ipv6
}

// baseChains lists the chains of these tables that translate destinations.
func baseChains(tables []*rules.Table) (bases []baseChain) {
	for _, t := range tables {
		for _, c := range t.Chains {
			if c.Base == nil || c.Base.Type != "nat" {
				continue
			}
			b := baseChain{Chain: c, id: Base{t.Handle, c.Handle}}
			switch c.Base.Hook {
			case unix.NF_INET_PRE_ROUTING:
				b.hook = Prerouting
			case unix.NF_INET_LOCAL_OUT:
				b.hook = Output
			default:
				continue
			}
			bases = append(bases, b)
		}
	}
	return bases
}

// rulesOf lists the rules of a chain. If they cannot be read, or are too many, there are none.
func (r *reading) rulesOf(c *rules.Chain) []*rules.Rule {
	list, ok := r.lists[c]
	if ok {
		return list
	}
	list, err := r.Rules(c)
	if r.count += len(list); err != nil || r.count > maxRules {
		list = nil
	}
	r.lists[c] = list
	return list
}
