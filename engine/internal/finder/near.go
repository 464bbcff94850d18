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

const (
	// maxNear bounds how many mappings are near, and maxOfReason those for one reason.
	maxNear, maxOfReason = 5, 3
	// beside is up to how far from a port another one is looked for.
	beside = 8
	// maxSample bounds how many elements are read, of all maps. Reading as many takes some
	// milliseconds.
	maxSample = 2048
	// maxAddresses bounds at how many addresses of the host a port is looked for, where not all
	// elements were read.
	maxAddresses = 256
)

// Near returns at most five mappings that were perhaps meant by a frontend that is not
// published, the nearest first: over the other protocol, ended, for the other family, on another
// address, with the frontend as their backend, on a port beside it.
//
// Those on other addresses and those by backend cannot be found by a key. They are among the
// first 2048 elements that the kernel lists, which are all in most tables; addresses of the host
// are asked one by one where they are not.
func (f *Finder) Near(ctx context.Context, proto nat.Proto, frontend netip.AddrPort) ([]nat.Near, error) {
	at := portset.Frontend{Proto: proto, AddrPort: plain(frontend)}
	if at.AddrPort.Port() == 0 {
		return nil, nil
	}
	s := &search{Finder: f, ctx: ctx, at: at, now: time.Now()}
	for _, step := range []func() error{s.otherProtocol, s.ended, s.otherFamily, s.sampled, s.neighbours} {
		if len(s.near) == maxNear {
			break
		}
		err := ctx.Err()
		if err == nil {
			err = step()
		}
		if err != nil {
			return s.near, fmt.Errorf("find what is near to %s: %w", nat.DescribeFrontend(at.Mapping(portset.Target{})), err)
		}
	}
	return s.near, nil
}

// search is one call of Near.
type search struct {
	*Finder
	ctx  context.Context
	at   portset.Frontend
	now  time.Time
	near []nat.Near
}

// add adds the mapping of a port unless there is one of its frontend.
func (s *search) add(p portset.Port, why string) {
	m := p.Mapping()
	of := 0
	for _, n := range s.near {
		if n.Mapping.Proto == m.Proto && n.Mapping.Frontend == m.Frontend {
			return
		}
		if n.Why == why {
			of++
		}
	}
	if len(s.near) < maxNear && of < maxOfReason {
		s.near = append(s.near, nat.Near{Mapping: m, Why: why})
	}
}

// addServing adds the mappings that serve a frontend.
func (s *search) addServing(f portset.Frontend, why string) error {
	ports, err := s.find(s.ctx, f)
	for _, p := range ports {
		s.add(p, why)
	}
	return err
}

func (s *search) otherProtocol() error {
	other := s.at
	other.Proto = nat.UDP
	if s.at.Proto == nat.UDP {
		other.Proto = nat.TCP
	}
	return s.addServing(other, "over "+other.Proto.String())
}

// ended adds what has expired, as long as no engine has forgotten it.
func (s *search) ended() error {
	switch exists, err := s.exists(); {
	case err != nil, !exists:
		return err
	}
	es, err := s.conn.Get(s.rules, schema.EndedKeys(s.at)...)
	for _, p := range schema.Classify(es, s.now).Ended {
		if p.AddrPort.Addr().IsUnspecified() {
			p.AddrPort = netip.AddrPortFrom(netip.Addr{}, p.AddrPort.Port())
		}
		s.add(p, "it has ended")
	}
	return err
}

func (s *search) otherFamily() error {
	a := s.at.AddrPort.Addr()
	if !a.IsValid() {
		return nil
	}
	other, why := netip.IPv6Unspecified(), "for IPv6 alone"
	if a.Is6() {
		other, why = netip.IPv4Unspecified(), "for IPv4 alone"
	}
	return s.addServing(s.at.OfFamily(other), why)
}

// sampled adds mappings on other addresses, and those that lead to the frontend.
func (s *search) sampled() error {
	if exists, err := s.exists(); err != nil || !exists {
		return err
	}
	withAddr, without := schema.PortMaps(s.at.Proto)
	es, all, err := s.sample(withAddr, maxSample)
	if err != nil {
		return err
	}
	found := slices.Collect(schema.Classify(slices.Clone(es), s.now).Ports.All)
	if err := s.addThose(found, s.onAnotherAddress, s.elsewhere()); err != nil {
		return err
	}
	if !all {
		if err := s.hostAddresses(); err != nil {
			return err
		}
	}
	others, _, err := s.sample(without, maxSample-len(es))
	if err != nil {
		return err
	}
	found = slices.AppendSeq(found, schema.Classify(others, s.now).Ports.All)
	why := fmt.Sprintf("leads to port %d", s.at.AddrPort.Port())
	if s.at.Host().IsValid() {
		why = "leads there"
	}
	return s.addThose(found, s.leadsThere, why)
}

func (s *search) onAnotherAddress(p portset.Port) bool {
	return p.AddrPort.Port() == s.at.AddrPort.Port() && p.Host().IsValid() && p.AddrPort.Addr() != s.at.AddrPort.Addr()
}

// elsewhere says why those are near.
func (s *search) elsewhere() string {
	if s.at.AddrPort.Addr().IsValid() {
		return "on another address"
	}
	return "on one address alone"
}

func (s *search) leadsThere(p portset.Port) bool {
	return p.Backend.Port() == s.at.AddrPort.Port() && (!s.at.Host().IsValid() || s.at.Host() == p.Backend.Addr())
}

// addThose adds the ports that match, in order. Options are read of those that are added.
func (s *search) addThose(ports []portset.Port, match func(portset.Port) bool, why string) error {
	ports = slices.DeleteFunc(slices.Clone(ports), func(p portset.Port) bool { return !match(p) })
	order.Sort(ports, func(a, b portset.Port) int { return nat.Compare(a.Mapping(), b.Mapping()) })
	for _, p := range ports[:min(len(ports), maxNear)] {
		if err := s.addServing(p.Frontend, why); err != nil {
			return err
		}
	}
	return nil
}

// sample reads up to limit elements of maps, and reports whether these are all.
func (s *search) sample(maps []string, limit int) (es []nft.Element, all bool, err error) {
	all = true
	for _, name := range maps {
		some, complete, err := nft.Sample(&nft.Config{NetNS: s.namespace.FD()}, s.rules, name, limit-len(es))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // tables of earlier versions have fewer maps
			return nil, false, err
		}
		es, all = append(es, some...), all && (complete || err != nil)
	}
	return es, all, nil
}

// hostAddresses looks for the port at the addresses of the host.
func (s *search) hostAddresses() error {
	policy, err := hostnet.OpenPolicy(s.namespace)
	if err != nil {
		return err
	}
	defer policy.Close()
	addrs, err := policy.Addresses()
	if err != nil {
		return err
	}
	addrs = append([]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, addrs...)
	for _, a := range addrs[:min(len(addrs), maxAddresses)] {
		at := portset.Frontend{Proto: s.at.Proto, AddrPort: netip.AddrPortFrom(a, s.at.AddrPort.Port())}
		if err := s.addServing(at, s.elsewhere()); err != nil {
			return err
		}
	}
	return nil
}

// neighbours looks for the ports beside, the nearest first.
func (s *search) neighbours() error {
	port := int(s.at.AddrPort.Port())
	for distance := 1; distance <= beside; distance++ {
		for _, n := range []int{port + distance, port - distance} {
			if n < 1 || n > 65535 {
				continue
			}
			at := s.at
			at.AddrPort = netip.AddrPortFrom(at.AddrPort.Addr(), uint16(n))
			if err := s.addServing(at, "a port beside it"); err != nil {
				return err
			}
		}
	}
	return nil
}
