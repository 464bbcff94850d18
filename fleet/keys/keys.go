// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// Prefix is where a fleet is unless it is given another.
const Prefix = "/nftnat/1/"

// Key prefixes, relative to that of the fleet.
const (
	// Desired has what hosts are to have: see [Item].
	Desired = "desired/"
	// Generation is one key: who changes more than one transaction can, and whether that is done.
	Generation = "generation"
	// Applying is one key, under the lease of who is in the midst of such a change.
	Applying = "applying"
	// Hosts has a key for each agent, under its lease.
	Hosts = "hosts/"
	// Statuses has what each agent did, under its lease.
	Statuses = "status/"
	// Floats has the holder of each floating address, under the holder's lease.
	Floats = "float/"
	// FloatEpochs has how often each floating address was taken. No lease.
	FloatEpochs = "float-since/"
	// FloatRequests has which host each floating address is to be handed over to, under the lease of
	// who asks for it.
	FloatRequests = "float-to/"
	// Spaces has who has which block of a shared network. No lease.
	Spaces = "space/"
)

// Host is the key of an agent.
func Host(host string) string { return Hosts + host }

// Status is the key of what an agent did.
func Status(host string) string { return Statuses + host }

// Float is the key of the holder of an address.
func Float(a netip.Addr) string { return Floats + a.String() }

// FloatEpoch is the key of how often an address was taken.
func FloatEpoch(a netip.Addr) string { return FloatEpochs + a.String() }

// Block is the key of a block of a shared network.
func Block(network string, index uint64) string {
	return fmt.Sprintf("%s%s/block/%d", Spaces, network, index)
}

// Blocks is the prefix of all blocks of a shared network.
func Blocks(network string) string { return Spaces + network + "/block/" }

// maxName is the length of the longest name: a key, and the mapping's name in a daemon, stay short.
const maxName = 128

// ValidateName reports whether a name can be that of a host, a group, or something desired: those of
// networks can, up to 128 bytes. what is for the error, a [*nat.InvalidError].
func ValidateName(what, name string) error {
	if len(name) > maxName {
		return &nat.InvalidError{What: what, Input: name[:16] + "…", Reason: fmt.Sprintf("name has %d bytes, more than %d", len(name), maxName)}
	}
	if err := nat.ValidateNetworkName(name); err != nil {
		reason := "a name is letters, digits, dots, dashes and underscores, the first a letter or digit"
		if name == "" {
			reason = "the name is empty"
		}
		return &nat.InvalidError{What: what, Input: name, Reason: reason}
	}
	return nil
}

// A Scope is which hosts an item is for. The zero scope is all hosts.
type Scope struct{ group, host string }

// All is the scope of all hosts.
func All() Scope { return Scope{} }

// OfGroup is the scope of the hosts of a group.
func OfGroup(group string) Scope { return Scope{group: group} }

// OfHost is the scope of one host.
func OfHost(host string) Scope { return Scope{host: host} }

// Host is the host of a scope of one; otherwise empty.
func (s Scope) Host() string { return s.host }

// Group is the group of a scope of one; otherwise empty.
func (s Scope) Group() string { return s.group }

// String returns "all", "group edge" or "host web1".
func (s Scope) String() string { return strings.Replace(s.path(), "/", " ", 1) }

// Prefix is the prefix of the keys of the scope.
func (s Scope) Prefix() string { return Desired + s.path() + "/" }

func (s Scope) path() string {
	switch {
	case s.host != "":
		return "host/" + s.host
	case s.group != "":
		return "group/" + s.group
	}
	return "all"
}

// Validate reports whether the names in it can be such.
func (s Scope) Validate() error {
	switch {
	case s.host != "":
		return ValidateName("host", s.host)
	case s.group != "":
		return ValidateName("group", s.group)
	}
	return nil
}

// rank orders scopes: of two items of one name, that of the greater counts.
func (s Scope) rank() int {
	switch {
	case s.host != "":
		return 2
	case s.group != "":
		return 1
	}
	return 0
}

// Precedes reports whether an item of s counts, and one of the same name of o does not: host before
// group before all, and of two groups the one whose name is less.
func (s Scope) Precedes(o Scope) bool {
	if s.rank() != o.rank() {
		return s.rank() > o.rank()
	}
	return s.group < o.group
}

// Concerns reports whether the scope has a host that is in these groups.
func (s Scope) Concerns(host string, groups []string) bool {
	switch {
	case s.host != "":
		return s.host == host
	case s.group != "":
		return slices.Contains(groups, s.group)
	}
	return true
}

// A Kind is what an item is. Kinds that an agent does not know are reported by it and left alone.
type Kind string

// The kinds.
const (
	KindMapping Kind = "mapping" // see [ParseMappings]
	KindNetwork Kind = "network" // see [ParseNetwork]
	KindFloat   Kind = "float"   // see [FloatItem]
)

// Item is what a desired key says: desired/{all,group/G,host/H}/KIND/NAME.
type Item struct {
	Scope Scope
	Kind  Kind
	Name  string
}

// Key is the key of the item.
func (i Item) Key() string { return i.Scope.Prefix() + string(i.Kind) + "/" + i.Name }

// String returns `mapping web of group edge`.
func (i Item) String() string { return fmt.Sprintf("%s %s of %s", i.Kind, i.Name, i.Scope) }

// ParseItem is the inverse of Item.Key. The kind may be one that is not known.
func ParseItem(key string) (Item, error) {
	bad := func(reason string) (Item, error) {
		return Item{}, &nat.InvalidError{What: "key", Input: key, Reason: reason}
	}
	rest, ok := strings.CutPrefix(key, Desired)
	if !ok {
		return bad("it does not begin with " + Desired)
	}
	parts := strings.Split(rest, "/")
	var i Item
	switch {
	case parts[0] == "all" && len(parts) == 3:
		parts = parts[1:]
	case parts[0] == "group" && len(parts) == 4:
		i.Scope, parts = OfGroup(parts[1]), parts[2:]
		if i.Scope.group == "" {
			return bad("the name of the group is empty")
		}
	case parts[0] == "host" && len(parts) == 4:
		i.Scope, parts = OfHost(parts[1]), parts[2:]
		if i.Scope.host == "" {
			return bad("the name of the host is empty")
		}
	default:
		return bad("a key is desired/{all,group/G,host/H}/{mapping,network}/NAME")
	}
	if err := i.Scope.Validate(); err != nil {
		return Item{}, err
	}
	i.Kind, i.Name = Kind(parts[0]), parts[1]
	return i, ValidateName(parts[0], i.Name)
}
