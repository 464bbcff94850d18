// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package finder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// Finder finds mappings in one table.
type Finder struct {
	namespace *hostnet.Namespace
	rules     nft.Table
	conn      *nft.Conn
}

// Open opens a netlink socket. The table need not exist.
func Open(table, namespace string) (*Finder, error) {
	ns, err := hostnet.OpenNamespace(namespace)
	if err != nil {
		return nil, err
	}
	conn, err := nft.Dial(&nft.Config{NetNS: ns.FD()})
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return &Finder{namespace: ns, rules: schema.Ruleset(table), conn: conn}, nil
}

// Close closes the socket.
func (f *Finder) Close() error { return errors.Join(f.conn.Close(), f.namespace.Close()) }

// Find returns the mappings that serve a frontend, the one for the fewest addresses first.
func (f *Finder) Find(ctx context.Context, proto nat.Proto, frontend netip.AddrPort) ([]nat.Mapping, error) {
	at := portset.Frontend{Proto: proto, AddrPort: plain(frontend)}
	ports, err := f.find(ctx, at)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", nat.DescribeFrontend(at.Mapping(portset.Target{})), err)
	}
	ms := make([]nat.Mapping, len(ports))
	for i, p := range ports {
		ms[i] = p.Mapping()
	}
	return ms, nil
}

// plain returns a frontend as mappings have it.
func plain(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// readAttempts bounds how often a port is read again because some ruleset has changed meanwhile.
// What was read last is good unless the change was about this port.
const readAttempts = 5

func (f *Finder) find(ctx context.Context, at portset.Frontend) ([]portset.Port, error) {
	if at.AddrPort.Port() == 0 {
		return nil, nil
	}
	for attempt := 1; ; attempt++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		switch exists, err := f.exists(); {
		case err != nil, !exists:
			return nil, err
		}
		before, err := f.conn.Generation()
		if err != nil {
			return nil, err
		}
		ports, err := f.read(at)
		if err != nil {
			return nil, err
		}
		after, err := f.conn.Generation()
		if err != nil || before == after || attempt == readAttempts {
			return ports, err
		}
	}
}

// read reads the ports that serve a frontend.
func (f *Finder) read(at portset.Frontend) ([]portset.Port, error) {
	filled := f.conn.Filled(f.rules)
	empty := func(set string) bool { return filled != nil && !filled[set] }
	get := func(keys []nft.ElementKey) ([]nft.Element, error) {
		return f.conn.Get(f.rules, slices.DeleteFunc(keys, func(k nft.ElementKey) bool { return empty(k.Set) })...)
	}
	es, err := get(schema.ServingKeys(at))
	if err != nil {
		return nil, err
	}
	for _, set := range schema.ApartRanges(at) {
		if empty(set) {
			continue
		}
		more, _, err := f.conn.Elements(f.rules, set)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // tables of earlier versions have fewer maps
			return nil, err
		}
		es = append(es, more...)
	}
	es = narrow(es, at)
	now := time.Now()
	// The options are of ports, so the ports are known first.
	for p := range schema.Classify(slices.Clone(es), now).Ports.All {
		if !schema.Serves(p, at) {
			continue
		}
		options, err := f.options(p, get)
		if err != nil {
			return nil, err
		}
		es = append(es, narrow(options, at)...)
	}
	var ports []portset.Port
	for p := range schema.Classify(es, now).Ports.All {
		if schema.Serves(p, at) {
			ports = append(ports, p)
		}
	}
	order.Sort(ports, func(a, b portset.Port) int { return breadth(a) - breadth(b) })
	return ports, nil
}

// narrow returns what elements say of one port.
func narrow(es []nft.Element, at portset.Frontend) []nft.Element {
	narrowed := es[:0]
	for _, e := range es {
		if e, ok := schema.Narrow(e, at.AddrPort.Port()); ok {
			narrowed = append(narrowed, e)
		}
	}
	return narrowed
}

// breadth is greater the more addresses a port is for.
func breadth(p portset.Port) int {
	switch a := p.AddrPort.Addr(); {
	case !a.IsValid():
		return 3
	case a == netip.IPv6Unspecified():
		return 2
	case a.IsUnspecified():
		return 1
	}
	return 0
}

// exists reports whether there is a table that this version may read.
func (f *Finder) exists() (bool, error) {
	switch info, err := f.conn.Table(f.rules.Name); {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	default:
		return true, schema.CheckComment(f.rules.Name, info.Comment)
	}
}

// options returns the elements of the options of a port. Only the clients of a limited port are
// not found by a key: their set is read, but no other takes memory.
func (f *Finder) options(p portset.Port, get func([]nft.ElementKey) ([]nft.Element, error)) ([]nft.Element, error) {
	es, err := get(schema.OptionKeys(p))
	if err != nil || !slices.ContainsFunc(es, schema.LimitsPort) {
		return es, err
	}
	for _, set := range schema.ClientSets(p) {
		clients, err := f.conn.Filter(f.rules, set, func(e *nft.Element) bool { return schema.IsClient(e, p) })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		es = append(es, clients...)
	}
	return es, nil
}
