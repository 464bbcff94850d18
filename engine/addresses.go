// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"

	"github.com/nftnat/nftnat/engine/internal/flows"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// addresses are which addresses this host has: true for those of its interfaces and those of
// frontends that are local by a route alone, false for other addresses of frontends.
type addresses map[netip.Addr]bool

// followAddresses ends flows to addresses that have left the host, and flows that began to
// an address before it came.
func (e *core) followAddresses() (err error) {
	local, routed, err := e.localAddresses()
	if err != nil {
		return err
	}
	before, touched, missed := e.local, e.touched, e.missed
	e.local, e.touched, e.missed = local, nil, false
	defer func() {
		if err != nil { // which flows have been ended is not known
			e.local = nil
		}
	}()
	if before == nil { // nothing is known of what has come and gone
		err := e.endAbsent(local)
		if e.watching { // else the engine is being opened, and has done it
			err = errors.Join(err, e.deleteStrayFlows())
		}
		return err
	}
	came, gone := addresses{}, addresses{}
	for a, is := range local {
		was, known := before[a]
		if routed[a] && !known { // it may have been there before it was published
			continue
		}
		if is && (!was || touched[a]) {
			came[a] = true
		}
	}
	for _, as := range []addresses{before, touched} {
		for a, was := range as {
			if was && !local[a] {
				gone[a] = true
			}
		}
	}
	for a := range e.frontendAddrs() {
		switch {
		case came[a]:
			e.sendHost(fmt.Sprintf("%s is an address of this host now: what is published on it works", a))
		case gone[a]:
			e.sendHost(fmt.Sprintf("%s is no address of this host any more: what is published on it waits for it", a))
		}
	}
	err = errors.Join(e.endDeparted(gone), e.endArrived(came))
	if missed { // others may have come and gone in between
		err = errors.Join(err, e.endAbsent(local), e.deleteStrayFlows())
	}
	return err
}

// endAbsent ends the flows to published ports of addresses that the host does not have.
func (e *core) endAbsent(local addresses) error {
	return e.flowDeleter().Departed(&e.mappings, func(a netip.Addr) bool { return !local[a] })
}

// localAddresses returns the addresses of the host's interfaces and of frontends. Of those
// that it has, routed are the ones that no interface has.
func (e *core) localAddresses() (local, routed addresses, err error) {
	interfaces, err := e.host.Interfaces()
	if err != nil {
		return nil, nil, err
	}
	local, routed = addresses{}, addresses{}
	for _, i := range interfaces {
		for _, a := range i.Addrs {
			local[a] = true
		}
	}
	for a := range e.frontendAddrs() {
		if local[a] {
			continue
		}
		is, err := e.isLocal(a)
		if err != nil {
			return nil, nil, err
		}
		local[a], routed[a] = is, is
	}
	return local, routed, nil
}

// frontendAddrs returns the addresses that single ones of the frontends have, with the
// number of ports on each. Those of loopback are left out: every host has them.
func (l *published) frontendAddrs() map[netip.Addr]int {
	hosts := map[netip.Addr]int{}
	for p := range l.mappings.All {
		if a := p.Host(); a.IsValid() && !a.IsLoopback() {
			hosts[a] += p.Len()
		}
	}
	return hosts
}

// endDeparted ends the flows to published ports of addresses that are gone, and those of
// their proxies.
func (e *core) endDeparted(gone addresses) error {
	if len(gone) == 0 {
		return nil
	}
	for a := range gone {
		e.holder.ResetAddr(a)
	}
	return e.flowDeleter().Departed(&e.mappings, func(a netip.Addr) bool { return gone[a] })
}

// endArrived ends the flows to published ports of addresses that have come, except those that
// lead to the backend: they began while the address was elsewhere.
func (e *core) endArrived(came addresses) error {
	if len(came) == 0 {
		return nil
	}
	var live portset.Change
	for p := range e.mappings.All {
		if a := p.Host(); !a.IsValid() || came[a] {
			live.Added = append(live.Added, p)
		}
	}
	if live.Empty() {
		return nil
	}
	d := flows.Deleter{Table: e.flows, IsLocal: func(a netip.Addr) (bool, error) { return came[a], nil }}
	return d.Stale(nat.UDP, &live, &e.mappings)
}

// absent returns the addresses of frontends that the host does not have, with the number of
// ports on each. One that cannot be looked up is left out.
func (e *core) absent() map[netip.Addr]int {
	hosts := e.frontendAddrs()
	maps.DeleteFunc(hosts, func(a netip.Addr, _ int) bool {
		local, err := e.isLocal(a)
		return local || err != nil
	})
	return hosts
}
