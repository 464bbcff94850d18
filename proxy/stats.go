// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import "sync/atomic"

// Stats are the counters of one proxy. They never go down, but for Live.
type Stats struct {
	Live           int64  // TCP connections, also those still dialing, or UDP flows, now
	Total          uint64 // connections or flows ever
	BytesToBackend uint64 // payload accepted by the kernel for the backend
	BytesToClient  uint64 // payload accepted by the kernel for clients
	RefusedDials   uint64 // backends that refused, had no route or did not answer in time
	AcceptErrors   uint64 // connections or flows that could not be taken for want of descriptors or memory
	Evicted        uint64 // UDP flows that ended early to make room for another
	Dropped        uint64 // UDP datagrams that the kernel would not send on
}

// Add adds the counters of another proxy.
func (s *Stats) Add(t Stats) {
	s.Live += t.Live
	s.Total += t.Total
	s.BytesToBackend += t.BytesToBackend
	s.BytesToClient += t.BytesToClient
	s.RefusedDials += t.RefusedDials
	s.AcceptErrors += t.AcceptErrors
	s.Evicted += t.Evicted
	s.Dropped += t.Dropped
}

// counters are Stats in the making; any loop may count.
type counters struct {
	live                  atomic.Int64
	total, toBackend      atomic.Uint64
	toClient, refused     atomic.Uint64
	acceptErrors, evicted atomic.Uint64
	dropped               atomic.Uint64
}

func (c *counters) read() Stats {
	return Stats{
		Live:           c.live.Load(),
		Total:          c.total.Load(),
		BytesToBackend: c.toBackend.Load(),
		BytesToClient:  c.toClient.Load(),
		RefusedDials:   c.refused.Load(),
		AcceptErrors:   c.acceptErrors.Load(),
		Evicted:        c.evicted.Load(),
		Dropped:        c.dropped.Load(),
	}
}
