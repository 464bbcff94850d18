// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package chains

import (
	"net/netip"
	"strconv"

	"github.com/nftnat/nftnat/migrate/internal/packets"
)

// Maker is what made a table.
type Maker int

// The makers of tables. Saved is text of iptables-save(8), of which it is not known which
// iptables wrote it.
const (
	NFT Maker = iota
	IPTables
	Legacy
	Saved
)

// String returns the maker in a word or two.
func (m Maker) String() string {
	names := [...]string{NFT: "nftables", IPTables: "iptables", Legacy: "iptables-legacy", Saved: "saved"}
	if m < 0 || int(m) >= len(names) {
		return "invalid"
	}
	return names[m]
}

// Hook is where a base chain sees packets.
type Hook int

// The hooks at which rules translate. None is that of other chains.
const (
	None Hook = iota
	Prerouting
	Output
	Postrouting
)

// String returns the hook as nft(8) names it.
func (h Hook) String() string {
	names := [...]string{None: "none", Prerouting: "prerouting", Output: "output", Postrouting: "postrouting"}
	if h < 0 || int(h) >= len(names) {
		return "invalid"
	}
	return names[h]
}

// Ruleset is the tables that translate.
type Ruleset struct {
	Tables []*Table
	// Generation is that of nftables when they were read; zero: they are text.
	Generation uint32

	boxes int // of all rules
}

// maxMatches bounds the boxes of all rules.
const maxMatches = 1 << 20

// count notes that rules are to be added.
func (rs *Ruleset) count(list ...*Rule) error {
	for _, r := range list {
		rs.boxes += len(r.Match)
	}
	if rs.boxes > maxMatches {
		return ErrTooMany
	}
	return nil
}

// Table is a table.
type Table struct {
	Six, Four bool   // the families that it sees
	Family    uint8  // NFPROTO_*
	Name      string // with its family: "ip nat"
	Maker     Maker
	Chains    []*Chain
	byName    map[string]*Chain
	age       uint64
}

// Chain is a chain of a table.
type Chain struct {
	Table    *Table
	Name     string
	Hook     Hook
	Priority int32
	Drops    bool // by its policy
	Rules    []*Rule
	age      uint64
}

// Action is what a rule does.
type Action int

// The actions. Unknown is one that may take packets or not.
const (
	Continue Action = iota
	Accept
	Drop
	Return
	Jump
	Goto
	Translate // the destination
	Redirect  // to the host itself
	Hide      // the source: SNAT or masquerade
	Mark      // and go on
	Unknown
)

// String returns the action in a word.
func (a Action) String() string {
	names := [...]string{"continue", "accept", "drop", "return", "jump", "goto", "translate", "redirect", "hide", "mark", "unknown"}
	if a < 0 || int(a) >= len(names) {
		return "invalid"
	}
	return names[a]
}

// Rule is a rule, or what a rule does for one element of a map.
type Rule struct {
	Chain *Chain
	// Handle is the kernel's number of the rule in its table; zero: it has none.
	Handle uint64
	// Text is the rule as iptables-save(8) or nft(8) prints it.
	Text string
	// Match are the packets that it is for.
	Match []packets.Box
	// If are conditions besides.
	If     []string
	Action Action
	Target string // of Jump and Goto
	To     Target
	// Map and Key are those of the element from which To is; empty: it is the rule's own.
	Map      string
	Key      []byte
	KeyEnd   []byte
	mapNamed bool
	// keyEndInElement is set if the kernel has the end in the element itself.
	keyEndInElement bool
	// Left is for how many milliseconds the kernel keeps the element; zero: for ever.
	Left uint64
	// Siblings is how many Rules the kernel's rule is.
	Siblings int
}

// ElementRemovable reports whether To is from an element of a map that has a name.
func (r *Rule) ElementRemovable() bool { return r.mapNamed }

// Target is where a rule sends packets.
type Target struct {
	// Addr is the new address; zero: the packet's own.
	Addr netip.Addr
	// First and Last are the new ports; zero: the packet's own.
	First, Last uint16
	// Shifted is set if the port is First plus the distance of the packet's port from Base.
	Shifted bool
	Base    uint16
	// Fault is why a published port cannot do the same; empty: it can.
	Fault string
}

// Port returns the port to which a packet to a port goes.
func (t Target) Port(port uint16) (to uint16, fault string) {
	switch {
	case t.First == 0:
		return port, ""
	case t.Shifted:
		p := int(t.First) + int(port) - int(t.Base)
		if p < int(t.First) || p > int(t.Last) {
			return 0, "its shifted ports " + ports(t.First, t.Last) + " do not have one for each port"
		}
		return uint16(p), ""
	case t.First == t.Last:
		return t.First, ""
	case t.First <= port && port <= t.Last: // the kernel keeps a port that is in the range
		return port, ""
	}
	return 0, "it goes to any of the ports " + ports(t.First, t.Last)
}

func ports(first, last uint16) string {
	if first == last {
		return strconv.Itoa(int(first))
	}
	return strconv.Itoa(int(first)) + "-" + strconv.Itoa(int(last))
}

// Chain returns the chain of that name, or nil.
func (t *Table) Chain(name string) *Chain { return t.byName[name] }

func (t *Table) add(c *Chain) {
	if t.byName == nil {
		t.byName = map[string]*Chain{}
	}
	c.Table = t
	t.Chains = append(t.Chains, c)
	t.byName[c.Name] = c
}

// classes are those that a table sees.
func (t *Table) classes() (c packets.Classes) {
	if t.Four {
		c |= packets.IPv4
	}
	if t.Six {
		c |= packets.IPv6
	}
	return c
}
