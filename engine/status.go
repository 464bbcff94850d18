// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/proxy"
)

// Status describes an engine and the state of its host.
type Status struct {
	// Table is the table's name, and Present whether it exists: the first mapping or
	// network creates it.
	Table   string
	Present bool
	// Owned is whether the kernel refuses changes by other programs, once the table exists.
	// With ReadOnly: whether a process owned it when it was read.
	Owned bool
	// Repaired is how often the table was repaired.
	Repaired int
	// Failures counts what has failed since the engine was opened.
	Failures Failures
	// Ports are how many ports are published.
	Ports PortCounts
	// Events count what has happened to ports since the engine was opened.
	Events EventCounts
	// Networks and Endpoints are how many there are.
	Networks, Endpoints int
	// Proxies is the number of userland proxies. Unserved is the number of ports without
	// the proxy that they should have, because they could not be bound; see [Engine.Run].
	Proxies, Unserved int
	// Loopback is how clients on loopback addresses are served: by LoopbackBPF, LoopbackProxy, or
	// LoopbackNone. NoBPF is why it is not LoopbackBPF although that was wanted; empty: there is no reason.
	Loopback Loopback
	NoBPF    string
	// Looks is how often the engine has looked at the host, to follow it: at the start, and
	// after changes, but ten times a second at most.
	Looks int
	// Absent is the number of ports whose frontend's address is not one of this host's.
	Absent int
	// Connections and Flows are the TCP connections and UDP flows of the proxies now,
	// including connections to ports that are not published any more.
	Connections, Flows int64
	// Carried are the counters of all proxies since the engine was opened.
	Carried proxy.Stats
	// Tracked is the number of flows in the connection tracking table. From TrackedMax on,
	// the kernel drops packets of new flows; zero: never.
	Tracked, TrackedMax int
	// Forwarding4 and Forwarding6 say whether the kernel forwards.
	Forwarding4, Forwarding6 ForwardingState
	// MissingFeatures are the features that the engine would use and that the kernel lacks,
	// always in the same order. Nil: none are known to be missing.
	MissingFeatures []MissingFeature
	// Warnings say what keeps published ports from working as far as the engine knows, a
	// line each. Nil: nothing is known.
	Warnings []string
}

// PortCounts are numbers of published ports by protocol and family of the backend.
type PortCounts struct{ TCP4, TCP6, UDP4, UDP6 int }

func (n *PortCounts) count(p portset.Port) {
	four, six := &n.TCP4, &n.TCP6
	if p.Proto == nat.UDP {
		four, six = &n.UDP4, &n.UDP6
	}
	if p.Backend.Addr().Is4() {
		*four += p.Len()
	} else {
		*six += p.Len()
	}
}

// Failures counts failures that are not the fault of a caller.
type Failures struct {
	// Changes are changes of the table that the kernel refused or did not acknowledge.
	Changes int
	// Repairs are failed attempts to load or repair the table after a change by another
	// program. The engine tries again until one succeeds.
	Repairs int
	// Sockets are netlink sockets that failed and were replaced.
	Sockets int
}

// ForwardingState says on which interfaces the kernel forwards: of those that have an
// address.
type ForwardingState = hostnet.ForwardingState

// The states of forwarding.
const (
	ForwardingOff    = hostnet.ForwardingOff
	ForwardingPartly = hostnet.ForwardingPartly
	ForwardingOn     = hostnet.ForwardingOn
)

// Status returns the status. If a part of it cannot be read, it returns an error together
// with the rest.
func (e *Engine) Status(ctx context.Context) (Status, error) {
	if err := e.mu.lockContext(ctx); err != nil {
		return Status{}, err
	}
	defer e.mu.Unlock()
	c := e.core
	if c.closed {
		return Status{}, nat.ErrClosed
	}
	c.forget(c.now())
	counts := c.table.Counts()
	networks, endpoints := c.ipam.Len()
	s := Status{
		Events: c.events.counts,
		Table:  c.opts.Table, Present: c.table.Present(), Owned: c.table.Owned(), Repaired: counts.Repaired,
		Failures: Failures{Changes: counts.Changes, Repairs: counts.FailedChecks, Sockets: counts.Sockets},
		Networks: networks, Endpoints: endpoints, Looks: c.looks,
	}
	s.Carried, s.Flows, s.Proxies = c.holder.Stats()
	s.Connections = s.Carried.Live - s.Flows
	s.Unserved = c.holder.Unserved(&c.mappings)
	s.Loopback, s.NoBPF = c.loopback()
	for p := range c.mappings.All {
		s.Ports.count(p)
	}
	var errs [3]error
	s.Tracked, s.TrackedMax, errs[0] = c.flows.Count()
	s.Forwarding4, s.Forwarding6, errs[1] = c.forwarding.State()
	s.MissingFeatures, errs[2] = c.missingFeatures()
	absent := c.absent()
	for _, n := range absent {
		s.Absent += n
	}
	s.Warnings = c.warnings(absent)
	return s, errors.Join(errs[:]...)
}

// Shutdown closes the engine after the connections of the proxies have ended or the context
// is done. Meanwhile proxies refuse new connections, and other methods wait. Mappings that
// netfilter serves work throughout. The table stays as after Close.
func (e *Engine) Shutdown(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.core
	if c.closed && !c.suspended {
		return nat.ErrClosed
	}
	c.closeForGood(func() { c.holder.Shutdown(ctx) })
	return c.disconnect()
}

// Created returns when the table was created, as the time since the machine booted, also that in which it
// slept (CLOCK_BOOTTIME). A table that was created anew has lost mappings; one that engines
// have repaired or recreated has not, and keeps its second. Zero: there is no table yet, or nft(8) or
// an earlier version made it, which does not write that down. Created waits for nothing.
func (e *Engine) Created() time.Duration { return time.Duration(e.core.table.Created()) * time.Second }

// Health returns nil if the engine works. Errors: ErrClosed; those of the kernel;
// fs.ErrNotExist if the table is missing; that of the context if a change takes longer. It
// asks the kernel for the table only, and changes nothing.
func (e *Engine) Health(ctx context.Context) error {
	if err := e.mu.lockContext(ctx); err != nil {
		return fmt.Errorf("a change has been going on: %w", err)
	}
	defer e.mu.Unlock()
	if e.core.closed {
		return nat.ErrClosed
	}
	return e.core.table.Check()
}
