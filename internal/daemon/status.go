// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/buildinfo"
	"github.com/nftnat/nftnat/internal/printable"
)

// StatusOf is the part of a status document that an engine knows. The error is why the engine
// could not read connection tracking.
func StatusOf(st engine.Status, err error) api.Status {
	doc := api.Status{
		Table:      api.TableStatus{Name: st.Table, Owned: st.Owned, Repaired: st.Repaired},
		Mappings:   mappingCounts(st),
		Networks:   st.Networks,
		Endpoints:  st.Endpoints,
		Proxies:    st.Proxies,
		Flows:      api.FlowCounts{TCP: int(st.Connections), UDP: int(st.Flows)},
		Forwarding: forwardingOf(st),
		Warnings:   []string{},
	}
	if st.Loopback != engine.LoopbackNone {
		doc.Loopback = &api.Loopback{By: api.LoopbackWay(st.Loopback.String()), Reason: printable.Line(st.NoBPF)}
	}
	if err == nil {
		doc.Conntrack = &api.Conntrack{Count: st.Tracked, Max: st.TrackedMax}
	} else {
		doc.Warnings = append(doc.Warnings, printable.Line(err.Error()))
	}
	for _, line := range st.Warnings {
		doc.Warnings = append(doc.Warnings, printable.Line(line))
	}
	return doc
}

func mappingCounts(st engine.Status) api.MappingCounts {
	n := st.Ports
	return api.MappingCounts{
		TCP: api.FamilyCounts{IPv4: n.TCP4, IPv6: n.TCP6}, UDP: api.FamilyCounts{IPv4: n.UDP4, IPv6: n.UDP6},
	}
}

func forwardingOf(st engine.Status) api.Forwarding {
	return api.Forwarding{IPv4: api.ForwardingState(st.Forwarding4.String()), IPv6: api.ForwardingState(st.Forwarding6.String())}
}

// self is the document of GET /v1/daemon.
func (s *server) self() api.Daemon {
	return api.Daemon{
		PID: os.Getpid(), Version: buildinfo.Version, NetNS: s.netns, Table: cmp.Or(s.Engine.Table, engine.DefaultTable),
		Created: int64(s.engine.Created() / time.Second),
	}
}

// status is the document of GET /v1/status.
func (s *server) status(ctx context.Context) (api.Status, error) {
	st, err := s.engine.Status(ctx)
	if err != nil && st.Table == "" {
		return api.Status{}, err
	}
	doc := StatusOf(st, err)
	self := s.self()
	doc.PID, doc.Version, doc.NetNS = self.PID, self.Version, self.NetNS
	doc.Started, doc.Uptime = s.started.UTC(), int64(time.Since(s.started).Seconds())
	doc.Confinement = confinementOf(s.confinement)
	for _, l := range st.MissingFeatures {
		doc.MissingFeatures = append(doc.MissingFeatures, api.MissingFeature(l))
	}
	doc.Warnings = append(doc.Warnings, warnings(st)...)
	for i, f := range s.findings.now(ctx) {
		if i == maxFindings {
			doc.Findings = append(doc.Findings, "more: see nftnat doctor")
			break
		}
		doc.Findings = append(doc.Findings, f.String())
	}
	if gone := s.socketGone.Load(); gone != nil && *gone != "" {
		doc.Warnings = append(doc.Warnings, "commands do not find this daemon: "+*gone)
	}
	if gone := s.stateGone.Load(); gone != nil && *gone != "" {
		doc.Warnings = append(doc.Warnings, "the state file is not kept: "+*gone)
	}
	if s.Starter != nil && s.Starter.stays != nil {
		doc.Warnings = append(doc.Warnings, "the daemon ends with the unit or session that started it: "+printable.Line(s.Starter.stays.Error()))
	}
	return doc, nil
}

// nearlyFull is how full the connection tracking table is when a warning says so, in percent:
// when it is full the kernel drops packets of new flows.
const nearlyFull = 80

func warnings(st engine.Status) []string {
	var lines []string
	if st.Unserved != 0 {
		lines = append(lines, fmt.Sprintf("%d mappings have no proxy, because their ports are held by others", st.Unserved))
	}
	if st.TrackedMax != 0 && st.Tracked*100 >= st.TrackedMax*nearlyFull {
		lines = append(lines, fmt.Sprintf("connection tracking holds %d of %d flows", st.Tracked, st.TrackedMax))
	}
	return lines
}

// logEvents logs what happens to what is published, until the context is done.
func (s *server) logEvents(ctx context.Context) error {
	var counting sync.WaitGroup
	defer counting.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	counting.Go(func() { s.changes.leases.Run(ctx) })
	for ev := range s.engine.Events(ctx) {
		s.changes.event(ev)
	}
	return nil
}
