// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/nftnat/nftnat/nat"
)

// The ports of the flood tests, and by how much the number of a port that shifts differs at its
// backend.
const (
	floodFirst, floodLast = 5000, 64999
	floodShift            = 4000
)

// leads is where a port leads to: the sum of several where any of them is right.
type leads uint8

const (
	nowhere leads = 1 << iota
	toFirst       // backend 1, the same port
	toSecond
	toShifted // backend 2, another port
)

// rangeModel is what each port leads to, naively: an array. It keeps what was right of late, so
// that a packet can be judged that was under way during changes.
type rangeModel struct {
	now atomic.Uint64 // the number of changes begun and ended

	mu   sync.RWMutex
	each [floodLast - floodFirst + 1][]leadsFrom // guarded by mu
}

// leadsFrom is what is right from a number of rangeModel.now on.
type leadsFrom struct {
	since uint64
	leads leads
}

// remembered is how many entries a port has at most.
const remembered = 16

func newRangeModel(l leads) *rangeModel {
	m := &rangeModel{}
	for i := range m.each {
		m.each[i] = []leadsFrom{{0, l}}
	}
	return m
}

// begin says that ports from first to last are about to lead elsewhere: either is right.
func (m *rangeModel) begin(first, last int, to leads) {
	m.mu.Lock()
	defer m.mu.Unlock()
	since := m.now.Add(1)
	for port := first; port <= last; port++ {
		m.append(port, since, to|m.last(port))
	}
}

// end says that they do now.
func (m *rangeModel) end(first, last int, to leads) {
	m.mu.Lock()
	defer m.mu.Unlock()
	since := m.now.Add(1)
	for port := first; port <= last; port++ {
		m.append(port, since, to)
	}
}

// undo says that nothing came of what begin said.
func (m *rangeModel) undo(first, last int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	since := m.now.Add(1)
	for port := first; port <= last; port++ {
		each := m.each[port-floodFirst]
		m.append(port, since, each[len(each)-2].leads)
	}
}

func (m *rangeModel) append(port int, since uint64, l leads) {
	i := port - floodFirst
	if len(m.each[i]) == remembered {
		m.each[i] = m.each[i][:copy(m.each[i], m.each[i][1:])]
	}
	m.each[i] = append(m.each[i], leadsFrom{since, l})
}

// last is where a port leads to. The caller holds mu.
func (m *rangeModel) last(port int) leads {
	each := m.each[port-floodFirst]
	return each[len(each)-1].leads
}

// leads returns where a port leads to.
func (m *rangeModel) leads(port int) leads {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.last(port)
}

// published reports whether all ports lead somewhere.
func (m *rangeModel) published(r portRange) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for port := r.first; port <= r.last; port++ {
		if m.last(port) == nowhere {
			return false
		}
	}
	return true
}

// allowed is where a packet may have come that was sent after a time; false if that is too
// long ago.
func (m *rangeModel) allowed(port int, since uint64) (all leads, known bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	each := m.each[port-floodFirst]
	for _, from := range slices.Backward(each) {
		all |= from.leads
		if from.since <= since {
			return all, true
		}
	}
	return all, false
}

// compare returns an error about the first port that leads elsewhere by what get says.
func (m *rangeModel) compare(get func(port int) leads) error {
	for port := floodFirst; port <= floodLast; port++ {
		if got, want := get(port), m.leads(port); got != want {
			return fmt.Errorf("port %d leads to %s, and is to lead to %s", port, got, want)
		}
	}
	return nil
}

// String returns it for messages.
func (l leads) String() string {
	text := ""
	for i, word := range []string{"nowhere", "backend 1", "backend 2", "another port of backend 2"} {
		if l&(1<<i) == 0 {
			continue
		}
		if text != "" {
			text += " or "
		}
		text += word
	}
	return text
}

// floodMapping is the mapping by which ports lead somewhere.
func floodMapping(host netip.Addr, first, last int, to leads) nat.Mapping {
	m := nat.Mapping{Proto: nat.UDP, Frontend: netip.AddrPortFrom(host, uint16(first)), More: uint16(last - first)}
	switch to {
	case nowhere: // it is removed
	case toFirst:
		m.Backend = netip.AddrPortFrom(netip.MustParseAddr("172.30.0.2"), uint16(first))
	case toSecond:
		m.Backend = netip.AddrPortFrom(netip.MustParseAddr("172.30.0.3"), uint16(first))
	case toShifted:
		m.Backend = netip.AddrPortFrom(netip.MustParseAddr("172.30.0.3"), uint16(first-floodShift))
	}
	return m
}

// leadsTo is where a mapping leads a port.
func leadsTo(backend netip.AddrPort, port int) leads {
	second := backend.Addr() == netip.MustParseAddr("172.30.0.3")
	switch {
	case !second && int(backend.Port()) == port:
		return toFirst
	case second && int(backend.Port()) == port:
		return toSecond
	case second && int(backend.Port()) == port-floodShift:
		return toShifted
	}
	return 0
}
