// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"net/netip"

	"github.com/goccy/go-yaml/ast"

	"github.com/nftnat/nftnat/nat"
)

// networkText is a network as a file spells it.
type networkText struct{ name, prefix, gateway, next string }

// network is the network that the text says. Both ways of reading a file use it, so that
// they mean the same.
func (t networkText) network() (nat.Network, error) {
	n, err := nat.ParseNetwork(t.name, t.prefix, t.gateway)
	if err == nil && t.next != "" {
		if n.Next, err = netip.ParseAddr(t.next); err != nil {
			err = &nat.InvalidError{What: "next address", Input: t.next, Reason: "it is not an IP address"}
		}
	}
	return n, err
}

func (d *document) readNetwork(line int, n ast.Node) *LineError {
	var (
		text                    networkText
		noMasquerade, unguarded bool
	)
	err := d.readFields(line, "network", n, "name, prefix, gateway, next, masquerade and guard", map[string]any{
		keyName: &text.name, keyPrefix: &text.prefix, keyGateway: &text.gateway, keyNext: &text.next,
		keyMasquerade: negated{&noMasquerade}, keyGuard: negated{&unguarded},
	})
	if err != nil {
		return err
	}
	network, invalid := text.network()
	if invalid == nil {
		network.NoMasquerade, network.NoGuard = noMasquerade, unguarded
		invalid = network.Validate()
	}
	if invalid != nil {
		return &LineError{Line: line, Err: invalid}
	}
	d.state.Networks = append(d.state.Networks, network)
	return nil
}

func (d *document) readEndpoint(line int, n ast.Node) *LineError {
	var (
		name, network, address string
		specs                  list
	)
	err := d.readFields(line, "endpoint", n, "name, network, address and ports", map[string]any{
		keyName: &name, keyNetwork: &network, keyAddress: &address, keyPorts: &specs,
	})
	if err != nil {
		return err
	}
	a, invalid := nat.ParseEndpointSpec(name, network, address)
	if invalid == nil {
		invalid = a.Validate()
	}
	if invalid != nil {
		return &LineError{Line: line, Err: invalid}
	}
	for i, text := range specs.texts {
		spec, err := nat.ParsePortSpec(text)
		if err != nil {
			return &LineError{Line: specs.lines[i], Err: err}
		}
		a.Ports = append(a.Ports, spec)
	}
	d.state.Endpoints = append(d.state.Endpoints, a)
	d.ports = append(d.ports, specs.lines)
	return nil
}

// negated is a field that is true unless it is said to be false, and is kept the other
// way round.
type negated struct{ not *bool }

// list is a field that is a list of texts.
type list struct {
	texts []string
	lines []int
}

// readFields reads an object into its fields: *string, negated or *list by their keys.
func (d *document) readFields(line int, what string, n ast.Node, keys string, fields map[string]any) *LineError {
	object, ok := n.(ast.MapNode)
	if !ok {
		return fault(line, what, excerpt(n), "not an object")
	}
	for it := object.MapRange(); it.Next(); {
		at := lineOf(it.Value())
		key := keyOf(it.Key())
		field, known := fields[key]
		if !known {
			return fault(lineOf(it.Key()), "key", key, "an item of "+what+"s has the keys "+keys)
		}
		if l, isList := field.(*list); isList {
			if err := d.readTexts(key, it.Value(), l); err != nil {
				return err
			}
			continue
		}
		n, err := d.resolve(it.Value())
		if err != nil {
			return err
		}
		switch field := field.(type) {
		case *string:
			if *field, ok = stringOf(n); !ok {
				return fault(at, key, excerpt(n), "not a text; quote it")
			}
		case negated:
			b, ok := n.(*ast.BoolNode)
			if !ok {
				return fault(at, key, excerpt(n), "true or false")
			}
			*field.not = !b.Value
		}
	}
	return nil
}

func (d *document) readTexts(key string, n ast.Node, l *list) *LineError {
	items, err := d.items(key, n)
	if err != nil {
		return err
	}
	// Without aliases there cannot be as many as the text has bytes.
	if d.texts += len(items); d.texts > d.size {
		return fault(lineOf(n), key, "", "aliases make more of it than there can be")
	}
	for _, item := range items {
		line := lineOf(item)
		n, err := d.resolve(item)
		if err != nil {
			return err
		}
		text, ok := stringOf(n)
		if !ok {
			return fault(line, key, excerpt(n), "not a text; quote it")
		}
		l.texts = append(l.texts, text)
		l.lines = append(l.lines, line)
	}
	return nil
}
