// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"
)

// benchMemory measures the memory of idle connections, flows and ports.
func benchMemory(rep *report, s settings) error {
	if err := rep.idle(s, "tcp", "hold", s.conns, fmt.Sprintf("%d idle TCP connections", s.conns)); err != nil {
		return err
	}
	if err := rep.idle(s, "udp", "udp-hold", s.flows, fmt.Sprintf("%d UDP flows", s.flows)); err != nil {
		return err
	}
	for _, proto := range []string{"tcp", "udp"} {
		if err := rep.published(s, proto); err != nil {
			return err
		}
	}
	return nil
}

// forkLimit is the number of clients of a peer that has a process for each.
const forkLimit = 1000

// idle measures by how much each peer grows with count clients.
func (rep *report) idle(s settings, proto, kind string, count int, title string) error {
	each := rep.table(title+", memory (PSS) of each", "bytes")
	files := rep.table(title+", descriptors of each", "")
	return withRig(s, func(g *rig) error {
		peers, err := g.peers(proto, firstPeerPort, each)
		if err != nil {
			return err
		}
		for range min(s.rounds, 3) {
			for _, p := range peers[1:] { // no proxy, no memory
				clients := count
				if p.name == "socat" && count > forkLimit {
					clients = forkLimit
					each.note("socat has a process for each client and got %d", clients)
				}
				if err := g.idle(p, proto, kind, clients, each, files); err != nil {
					return fmt.Errorf("%s: %w", p.name, err)
				}
			}
		}
		return nil
	})
}

// idle measures one peer, which is started again, because it would reuse the memory of
// earlier clients.
func (g *rig) idle(p *peer, proto, kind string, clients int, each, files *table) error {
	if err := g.again(p, proto); err != nil {
		return err
	}
	memory, open := p.pss(), p.files()
	c, err := startLoad(g.top.Host, anyProcessor, load{Kind: kind, Addr: p.addr, Workers: clients})
	if err != nil {
		return err
	}
	_, err = c.line()
	each.add(p.name, (p.pss()-memory)/float64(clients))
	files.add(p.name, (p.files()-open)/float64(clients))
	if endErr := c.end(); err == nil {
		err = endErr
	}
	g.stop(p)
	return err
}

// again restarts a peer at another port.
func (g *rig) again(p *peer, proto string) error {
	g.stop(p)
	fresh, err := g.startNamed(p.name, proto, g.port(), 1)
	if err != nil {
		return err
	}
	*p = *fresh
	return g.answers(p, proto)
}

func (g *rig) startNamed(name, proto string, first, count int) (*peer, error) {
	for _, program := range programs() {
		if program.name == name {
			return g.start(program, proto, first, count)
		}
	}
	return g.nftnat(name, proto, first, count)
}

// published measures the memory of published ports that nobody uses.
func (rep *report) published(s settings, proto string) error {
	total := rep.table(fmt.Sprintf("%d published %s ports, memory (PSS) in all", s.ports, proto), "KiB")
	took := rep.table(fmt.Sprintf("%d published %s ports, time until the last answers", s.ports, proto), seconds)
	return withRig(s, func(g *rig) error {
		g.next = firstPeerPort
		names := []string{"nftnat"}
		for _, p := range programs() {
			if g.set.wants(p.name) && p.does(proto, total, took) {
				names = append(names, p.name)
			}
		}
		for range min(s.rounds, 3) {
			for _, name := range names {
				begin := time.Now()
				p, err := g.startNamed(name, proto, g.next, s.ports)
				if err != nil {
					return err
				}
				g.next += s.ports
				last := peer{name: name, addr: fmt.Sprintf("127.0.0.1:%d", g.next-1)}
				if name == "nftnat" {
					last.addr = p.addr // its ports lead to as many ports of the backend
				}
				err = g.answers(&last, proto)
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				took.add(name, time.Since(begin).Seconds())
				total.add(name, p.pss()/1024)
				g.stop(p)
			}
		}
		return nil
	})
}
