// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package space

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/nat"
)

const (
	// Ports of shared addresses are those that a daemon gives by itself, 49153 to 65535, in blocks
	// of 64: block 0 begins at 49152, which is never leased.
	firstPort  = 49152
	portBlock  = 64
	portBlocks = (65536 - firstPort) / portBlock
	// SharedName begins the names of mappings with a port of a shared address. They are the record of this
	// host's blocks of ports.
	SharedName = "shared:"
)

// Publish publishes a mapping whose frontend is a shared address with port 0: it gets a port that no other
// host uses with that address and protocol. The mapping's name begins with "shared:".
func (m *Manager) Publish(ctx context.Context, how nat.PublishOptions, want nat.Mapping) (nat.Mapping, error) {
	done, err := m.publish(ctx, how, want)
	if err != nil {
		return nat.Mapping{}, fmt.Errorf("publish %s %s:0: %w", want.Proto, want.Frontend.Addr(), err)
	}
	return done, nil
}

func (m *Manager) publish(ctx context.Context, how nat.PublishOptions, want nat.Mapping) (nat.Mapping, error) {
	invalid := func(reason string) (nat.Mapping, error) {
		return nat.Mapping{}, &nat.InvalidError{What: "frontend", Input: want.FrontendText(), Reason: reason}
	}
	switch a := want.Frontend.Addr(); {
	case !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Zone() != "":
		return invalid("a shared port is of an address that hosts share: ADDR:0")
	case want.Frontend.Port() != 0:
		return invalid("the port of a shared address is chosen: ADDR:0")
	case want.More != 0:
		return invalid("shared ports are given one by one")
	}
	if !strings.HasPrefix(want.Name, SharedName) {
		want.Name = SharedName + want.Name
	}
	p, _, err := m.await(ctx, keys.PortPool(want.Proto, want.Frontend.Addr()))
	if err != nil {
		return nat.Mapping{}, err
	}
	p.leasing.Lock()
	defer p.leasing.Unlock()
	all, err := m.daemon.Mappings(ctx)
	if err != nil {
		return nat.Mapping{}, err
	}
	used := usedPorts(p, all)
	done, err := m.publishNext(ctx, p, how, want, used)
	if !errors.Is(err, errFull) {
		return done, err
	}
	h, err := m.anotherPorts(ctx, p)
	if err != nil {
		return nat.Mapping{}, err
	}
	if done, err = m.publishIn(ctx, how, want, h, used); err != nil {
		m.wake() // the block is a spare one
		return nat.Mapping{}, err
	}
	p.mine = append(p.mine, h)
	p.turn = len(p.mine) - 1
	return done, nil
}

// publishNext publishes at the next free port of the blocks that this host holds. The error is errFull if there is none.
func (m *Manager) publishNext(ctx context.Context, p *pool, how nat.PublishOptions, want nat.Mapping, used map[uint16]bool) (nat.Mapping, error) {
	for i := range len(p.mine) {
		turn := (p.turn + i) % len(p.mine)
		done, err := m.publishIn(ctx, how, want, p.mine[turn], used)
		if errors.Is(err, errFull) {
			continue
		}
		p.turn = turn
		return done, err
	}
	return nat.Mapping{}, errFull
}

// isShared reports whether a mapping is on record as one with a port of a shared address.
func isShared(o nat.Mapping) bool {
	a := o.Frontend.Addr()
	return strings.HasPrefix(o.Name, SharedName) && o.Frontend.Port() >= firstPort && a.IsValid() && !a.IsUnspecified()
}

// usedPorts are the ports of the mappings that frontends of a pool cannot have.
func usedPorts(p *pool, all []nat.Mapping) map[uint16]bool {
	proto, addr, _ := keys.ParsePortPool(p.name)
	used := map[uint16]bool{firstPort: true}
	for _, o := range all {
		if o.Proto != proto || o.Frontend.Addr().IsValid() && !o.Frontend.Addr().IsUnspecified() && o.Frontend.Addr() != addr {
			continue
		}
		for port := int(o.Frontend.Port()); port <= int(o.Frontend.Port())+int(o.More); port++ {
			used[uint16(port)] = true //nolint:gosec // a mapping's ports end at 65535
		}
	}
	return used
}

// publishIn publishes at the next free port of a block, in cyclic order. The error is errFull if there is none.
func (m *Manager) publishIn(ctx context.Context, how nat.PublishOptions, want nat.Mapping, h *holding, used map[uint16]bool) (nat.Mapping, error) {
	if h.fault != "" {
		return nat.Mapping{}, errFull
	}
	for range portBlock {
		port := uint16(firstPort + int(h.index)*portBlock + h.port) //nolint:gosec // of 256 blocks
		h.port = (h.port + 1) % portBlock
		if used[port] {
			continue
		}
		want.Frontend = netip.AddrPortFrom(want.Frontend.Addr(), port)
		done, err := m.daemon.Publish(ctx, how, want)
		_, conflict := errors.AsType[*nat.ConflictError](err)
		_, held := errors.AsType[*nat.HeldError](err)
		if conflict || held {
			used[port] = true
			continue
		}
		if err != nil {
			return nat.Mapping{}, err
		}
		return done[0], nil
	}
	return nat.Mapping{}, errFull
}

// anotherPorts has this host hold one more block of ports.
func (m *Manager) anotherPorts(ctx context.Context, p *pool) (*holding, error) {
	for _, index := range m.spares(p) {
		if ok, err := m.renew(ctx, p, index); err != nil || ok {
			return &holding{index: index}, err
		}
	}
	index, err := m.acquire(ctx, p)
	return &holding{index: index}, err
}

// reconcilePorts does so for a pool of ports: mappings say which blocks this host holds.
func (m *Manager) reconcilePorts(ctx context.Context, p *pool) (contradictions int, err error) {
	p.leasing.Lock()
	defer p.leasing.Unlock()
	all, err := m.daemon.Mappings(ctx)
	if err != nil {
		return 0, err
	}
	proto, addr, _ := keys.ParsePortPool(p.name)
	used := map[uint64]int{}
	for _, o := range all {
		if o.Proto == proto && o.Frontend.Addr() == addr && isShared(o) {
			used[uint64(o.Frontend.Port()-firstPort)/portBlock]++
		}
	}
	m.mu.Lock()
	p.found = len(used) != 0
	m.mu.Unlock()
	before := p.mine
	p.mine = nil
	for index := range uint64(portBlocks) {
		if used[index] == 0 {
			continue
		}
		h := &holding{index: index}
		if i := slices.IndexFunc(before, func(o *holding) bool { return o.index == index }); i >= 0 {
			h = before[i]
		}
		h.fault, h.idle = "", time.Time{}
		p.mine = append(p.mine, h)
		ok, err := m.claim(ctx, p, index)
		if err != nil {
			return 0, err
		}
		if !ok {
			contradictions++
			first := firstPort + index*portBlock
			h.fault = fmt.Sprintf("ports %d-%d of %s are published by this host and held by host %s", first, first+portBlock-1, p.name, m.holderOf(p, index))
			m.mu.Lock()
			m.fault(h.fault)
			m.mu.Unlock()
		}
	}
	if len(p.mine) == 0 && p.turn < len(before) {
		last := before[p.turn]
		m.mu.Lock()
		stays := m.closed == nil && p.ring.blocks[last.index].host == m.host
		m.mu.Unlock()
		if stays && !m.isIdle(last) {
			p.mine = append(p.mine, last)
		}
	}
	p.turn = max(0, min(p.turn, len(p.mine)-1))
	return contradictions, nil
}
