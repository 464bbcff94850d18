// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/state"
)

// What the fleet has made in a daemon is known by its name.
const (
	MappingPrefix = "fleet:" // of a mapping's name
	NetworkPrefix = "fleet." // of a network's, which has no colon
)

// maxMappingName is how long the name of a mapping of a daemon may be to be kept as it is.
const maxMappingName = 63 - len(MappingPrefix)

// ParseMappings parses the value of an item that is a mapping: a line for each, written as an item of
// the mappings of nftnat's file is, such as
//
//	8080->172.17.0.2:80
//	{mapping: "53->172.17.0.2:53/udp", masquerade: true}
//
// Each gets the name that it has in a daemon; one that it is given has to be that of the item. Errors
// are nat.ErrInvalid.
func ParseMappings(name, value string) ([]nat.Mapping, error) {
	bad := func(reason string) error {
		return &nat.InvalidError{What: nat.WhatMapping, Input: name, Reason: reason}
	}
	if len(name) > maxMappingName {
		return nil, bad(fmt.Sprintf("a mapping's name has at most %d bytes", maxMappingName))
	}
	var ms []nat.Mapping
	for line := range strings.Lines(value) {
		line = strings.TrimSpace(line)
		line = strings.TrimSpace(strings.TrimPrefix(line, "- "))
		if line == "" || line[0] == '#' {
			continue
		}
		m, err := parseMapping(line)
		if err != nil {
			return nil, err
		}
		if m.Name != "" && m.Name != name {
			return nil, bad(fmt.Sprintf("its value has the name %q", m.Name))
		}
		m.Name = MappingPrefix + name
		if m.Frontend.Port() == 0 {
			return nil, bad("it needs a frontend port")
		}
		ms = append(ms, m)
	}
	if len(ms) == 0 {
		return nil, bad("its value is empty")
	}
	if err := nat.ValidateAll(ms...); err != nil {
		return nil, err
	}
	return nat.Collapse(ms), nil
}

// parseMapping parses a line.
func parseMapping(line string) (nat.Mapping, error) {
	if line[0] != '{' && line[0] != '"' && line[0] != '\'' {
		return nat.ParseMappingText(line)
	}
	s, err := state.Decode(strings.NewReader("mappings:\n  - "+line+"\n"), "value")
	if err != nil {
		if at, ok := errors.AsType[*state.LineError](err); ok {
			err = at.Err
		}
		return nat.Mapping{}, err
	}
	if len(s.Mappings) != 1 || len(s.Networks)+len(s.Endpoints) != 0 {
		return nat.Mapping{}, &nat.InvalidError{What: nat.WhatMapping, Input: line, Reason: "a line has one mapping"}
	}
	return s.Mappings[0], nil
}

// FormatMappings is the value of an item of these mappings, whose names do not count.
func FormatMappings(ms []nat.Mapping) string {
	lines := make([]string, len(ms))
	for i, m := range ms {
		m.Name = ""
		if lines[i] = m.String(); m != (nat.Mapping{Proto: m.Proto, Frontend: m.Frontend, Backend: m.Backend, More: m.More}) {
			lines[i] = state.EncodeMapping(m)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// ParseNetwork parses the value of an item that is a network: what stands in the networks of nftnat's
// file, as {prefix: 172.30.0.0/24, gateway: 172.30.0.1}. It gets the name that it has in a daemon.
func ParseNetwork(name, value string) (nat.Network, error) {
	bad := func(reason string) (nat.Network, error) {
		return nat.Network{}, &nat.InvalidError{What: nat.WhatNetwork, Input: name, Reason: reason}
	}
	value = strings.TrimSpace(value)
	fields, ok := strings.CutPrefix(value, "{")
	if !ok || strings.Contains(value, "\n") {
		return bad("its value is one line, as {prefix: 172.30.0.0/24}")
	}
	if !strings.Contains(value, "name:") {
		value = "{name: " + name + ", " + fields
	}
	s, err := state.Decode(strings.NewReader("networks:\n  - "+value+"\n"), "value")
	if err != nil {
		if at, ok := errors.AsType[*state.LineError](err); ok {
			err = at.Err
		}
		return nat.Network{}, err
	}
	if len(s.Networks) != 1 || len(s.Mappings)+len(s.Endpoints) != 0 {
		return bad("its value has one network")
	}
	n := s.Networks[0]
	if n.Name != name {
		return bad(fmt.Sprintf("its value has the name %q", n.Name))
	}
	n.Name, n.Next = NetworkPrefix+name, nat.Network{}.Next
	return n, n.Validate()
}

// FormatNetwork is the value of an item of this network, whose name does not count.
func FormatNetwork(n nat.Network) string {
	var b strings.Builder
	fmt.Fprintf(&b, "{prefix: %s", n.Prefix)
	if n.Gateway.IsValid() {
		fmt.Fprintf(&b, ", gateway: %q", n.Gateway.String())
	}
	if n.NoMasquerade {
		b.WriteString(", masquerade: false")
	}
	if n.NoGuard {
		b.WriteString(", guard: false")
	}
	return b.String() + "}"
}

// Change is the value of [Generation]: a change of more keys than one transaction can have. While it is
// open, agents wait for its end.
type Change struct {
	ID    string    `json:"id"`
	Open  bool      `json:"open"`
	Scope string    `json:"scope"` // as Scope.String
	By    string    `json:"by"`
	Since time.Time `json:"since"`
}

// ParseChange parses the value of Generation. What it cannot read is a change that is done: somebody has
// put it by hand.
func ParseChange(value string) (c Change) {
	if json.Unmarshal([]byte(value), &c) != nil {
		return Change{}
	}
	return c
}

// Format is the value.
func (c Change) Format() string { return format(c) }

// String says who changes what since when.
func (c Change) String() string {
	return fmt.Sprintf("the change of %s that %s began at %s", c.Scope, c.By, c.Since.UTC().Format(time.RFC3339))
}

// Agent is the value of [Host].
type Agent struct {
	// Instance tells one agent of a name from another, and is the same when it is started again.
	Instance string   `json:"instance"`
	Address  string   `json:"address"` // by which it reaches etcd
	PID      int      `json:"pid"`
	Boot     string   `json:"boot"` // the boot of its machine
	Groups   []string `json:"groups,omitempty"`
	Version  string   `json:"version"`
}

// ParseAgent parses the value of Host.
func ParseAgent(value string) (a Agent, err error) { return a, json.Unmarshal([]byte(value), &a) }

// Format is the value.
func (a Agent) Format() string { return format(a) }

// HostStatus is the value of [Status]: what an agent did.
type HostStatus struct {
	// Revision is that of etcd of which all is applied, but for what Errors are about.
	Revision int64     `json:"revision"`
	Since    time.Time `json:"since"` // when this was so first
	Mappings int       `json:"mappings"`
	Networks int       `json:"networks"`
	Groups   []string  `json:"groups,omitempty"`
	Version  string    `json:"version"`
	// Daemon says why nothing can be applied. Empty: the daemon answers.
	Daemon string `json:"daemon,omitempty"`
	// Waiting is the change that is waited for. Empty: none.
	Waiting string `json:"waiting,omitempty"`
	// Errors are what is not applied, More how many there are that are not listed.
	Errors []Fault `json:"errors,omitempty"`
	More   int     `json:"more,omitempty"`
	// Doctor has the findings of nftnat doctor, a line each.
	Doctor []string `json:"doctor,omitempty"`
	// Parts says what floating addresses and shared networks lack, a line each.
	Parts []string `json:"parts,omitempty"`
}

// Fault is why a key is not applied.
type Fault struct {
	Key      string `json:"key"`
	Revision int64  `json:"revision"`
	Reason   string `json:"reason"`
}

// ParseStatus parses the value of Status.
func ParseStatus(value string) (s HostStatus, err error) { return s, json.Unmarshal([]byte(value), &s) }

// Format is the value.
func (s HostStatus) Format() string { return format(s) }

func format(v any) string {
	b, err := json.Marshal(v)
	if err != nil { // strings and numbers alone
		return ""
	}
	return string(b)
}
