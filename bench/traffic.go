// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
)

// question is a load and the tables for its results.
type question struct {
	name    string
	load    load
	rate    *table
	scale   float64 // of the rate
	p50     *table  // nil: not asked
	p99     *table
	perUnit *table  // processor seconds for each unit
	six     bool    // clients ask ::1 instead of 127.0.0.1
	unit    float64 // of work, in units of the rate
}

// asked returns the questions whose name contains a word.
func asked(qs []question, only string) []question {
	var some []question
	var names []string
	for _, q := range qs {
		names = append(names, q.name)
		if strings.Contains(q.name, only) {
			some = append(some, q)
		}
	}
	if len(some) == 0 {
		fmt.Fprintf(os.Stderr, "none of the loads %s has %q in its name\n", strings.Join(names, ", "), only)
	}
	return some
}

// benchTCP measures proxied connections.
func benchTCP(rep *report, s settings) error {
	qs := asked([]question{
		{name: "bulk-1", load: load{Kind: "bulk", Workers: 1}, scale: 8e-6, unit: 1e9},
		{name: "bulk-8", load: load{Kind: "bulk", Workers: 8}, scale: 8e-6, unit: 1e9},
		{name: "conns-1", load: load{Kind: "conns", Workers: 1}, scale: 1, unit: 1},
		{name: "conns-8", load: load{Kind: "conns", Workers: 8}, scale: 1, unit: 1},
		{name: "conns6-1", load: load{Kind: "conns", Workers: 1}, scale: 1, unit: 1, six: true},
		{name: "conns6-8", load: load{Kind: "conns", Workers: 8}, scale: 1, unit: 1, six: true},
		{name: "rr-1", load: load{Kind: "rr", Workers: 1, Size: 64}, scale: 1, unit: 1},
		{name: "rr-32", load: load{Kind: "rr", Workers: 32, Size: 64}, scale: 1, unit: 1},
	}, s.only)
	for i := range qs {
		q := &qs[i]
		streams := fmt.Sprintf("%d at a time", q.load.Workers)
		if q.six {
			streams += ", to ::1"
		}
		switch q.load.Kind {
		case "bulk":
			q.rate = rep.table("Bulk TCP, streams: "+streams, "Mbit/s")
			q.perUnit = rep.table("Processor time of the proxy for bulk TCP, streams: "+streams, "s/GB")
		case "conns":
			q.rate = rep.table("New TCP connections, one byte there and back: "+streams, "1/s")
			q.perUnit = rep.table("Processor time of the proxy for each connection: "+streams, seconds)
		case "rr":
			q.rate = rep.table("TCP requests of 64 bytes, echoed: "+streams, "1/s")
			q.perUnit = rep.table("Processor time of the proxy for each TCP request: "+streams, seconds)
			q.p50 = rep.table("TCP requests: "+streams+", median latency", seconds)
			q.p99 = rep.table("TCP requests: "+streams+", 99th percentile", seconds)
		}
	}
	return rep.traffic(s, "tcp", qs)
}

// benchUDP measures proxied datagrams.
func benchUDP(rep *report, s settings) error {
	qs := asked([]question{
		{name: "flood-64", load: load{Kind: "udp-flood", Workers: 1, Size: 64}, scale: 1},
		{name: "flood-1400", load: load{Kind: "udp-flood", Workers: 1, Size: 1400}, scale: 1},
		{name: "rr-1", load: load{Kind: "udp-rr", Workers: 1, Size: 64}, scale: 1},
		{name: "rr-32", load: load{Kind: "udp-rr", Workers: 32, Size: 64}, scale: 1},
	}, s.only)
	for i := range qs {
		q := &qs[i]
		if q.load.Kind == "udp-flood" {
			q.rate = rep.table(fmt.Sprintf("UDP datagrams of %d bytes that arrive, one client sending all it can", q.load.Size), "1/s")
			continue
		}
		clients := fmt.Sprintf("%d at a time", q.load.Workers)
		q.rate = rep.table("UDP requests of 64 bytes, echoed: "+clients, "1/s")
		q.p50 = rep.table("UDP requests: "+clients+", median latency", seconds)
		q.p99 = rep.table("UDP requests: "+clients+", 99th percentile", seconds)
	}
	return rep.traffic(s, "udp", qs)
}

// firstPeerPort is the first port of the proxies in each part.
const firstPeerPort = 8000

// traffic asks all peers all questions, round after round.
func (rep *report) traffic(s settings, proto string, qs []question) error {
	return withRig(s, func(g *rig) error {
		var tables []*table
		for _, q := range qs {
			tables = append(tables, q.rate)
		}
		peers, err := g.peers(proto, firstPeerPort, tables...)
		if err != nil {
			return err
		}
		for range s.rounds {
			for _, q := range qs {
				for _, p := range peers {
					if err := q.ask(g, p, s.seconds); err != nil {
						return fmt.Errorf("%s %s: %w", p.name, q.name, err)
					}
				}
			}
		}
		return nil
	})
}

// ask makes one measurement.
func (q *question) ask(g *rig, p *peer, duration float64) error {
	l := q.load
	l.Addr, l.Seconds = p.addr, duration
	if q.six {
		l.Addr = p.addr6
	}
	if _, err := g.swallowed(); err != nil {
		return err
	}
	before := p.cpu()
	m, err := apply(g.top.Host, anyProcessor, l)
	if err != nil {
		return err
	}
	if l.Kind == "udp-flood" {
		count, err := g.swallowed()
		if err != nil {
			return err
		}
		m.Rate = count / duration
	}
	q.rate.add(p.name, m.Rate*q.scale)
	if q.p50 != nil {
		q.p50.add(p.name, m.P50)
		q.p99.add(p.name, m.P99)
	}
	if q.perUnit != nil && len(p.roots) > 0 {
		q.perUnit.add(p.name, (p.cpu()-before)/(m.Rate*duration/q.unit))
	}
	return nil
}
