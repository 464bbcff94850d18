// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package pcp

import (
	"context"
	"net/netip"
	"time"
)

// How often something is announced, for packets get lost, and when: the second one follows after
// firstInterval, and each interval is twice the one before (RFC 6886 section 3.2.1, RFC 6887
// section 14.1.3).
const (
	announcements = 10
	firstInterval = 250 * time.Millisecond
)

var (
	allHosts = netip.AddrPortFrom(netip.AddrFrom4([4]byte{224, 0, 0, 1}), clientPort)
	allNodes = netip.AddrPortFrom(netip.IPv6LinkLocalAllNodes(), clientPort)
)

// announce tells the clients the WAN's address and the epoch when it starts and whenever that address
// changes or leases were lost, until ctx is done. It begins anew firstInterval after a change, as an
// address is often removed and another one added.
func (s *Server) announce(ctx context.Context) {
	select {
	case <-s.leases.Ready():
	case <-ctx.Done():
		return
	}
	changed := s.leases.Changed()
	before, _ := s.leases.Address()
	for i, interval := 0, firstInterval; ; {
		s.announceOnce()
		s.sendUpdates(ctx)
		i++
		var next <-chan time.Time // nil: all were sent
		if i < announcements {
			next = time.After(interval)
		}
		select {
		case <-next:
			interval *= 2
			continue
		case <-changed:
		case <-ctx.Done():
			return
		}
		if !pause(ctx, firstInterval) {
			return
		}
		changed = s.leases.Changed()
		if now, ok := s.leases.Address(); ok && now != before {
			before = now
			s.beginUpdates()
		}
		i, interval = 0, firstInterval
	}
}

// pause waits, and is false if ctx was done before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// announceOnce sends what is true now to the clients of all devices: NAT-PMP's announcement of the
// address, and PCP's of the epoch, over each protocol by which requests are taken.
func (s *Server) announceOnce() {
	pmp := s.pmpAddress(nil)
	pcp := appendAnnounce(nil, s.leases.Epoch())
	for _, d := range s.devices() {
		if d.Addr4().IsValid() {
			s.send(d.Name, allHosts, pmp)
			s.send(d.Name, allHosts, pcp)
		}
		if d.Link6().IsValid() {
			s.send(d.Name, allNodes, pcp)
		}
	}
}

// send sends to a group. A device without carrier, or that has just gone, has no client that could miss it.
func (s *Server) send(device string, to netip.AddrPort, data []byte) {
	if err := s.socket.Send(device, to, data); err != nil {
		s.log.Debug("announcement not sent", "device", device, "to", to, "error", err)
	}
}
