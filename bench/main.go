// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Command bench measures nftnat against limits and peers, in throwaway network
// namespaces:
//
//	cd bench && sudo go run . [PART ...]
//
// Every figure is a ratio to something run in the same minute, because absolute
// figures mean little on shared machines. A peer that is not installed is left out,
// and named. With -write FILE what was measured is also written as Markdown:
// docs/benchmarks.md is made so.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
)

// parts are the measurements by name.
func parts() []part {
	return []part{
		{"apply", "100 to 60,000 mappings in one transaction, against a raw netlink batch, nft -f and iptables-restore", benchApply},
		{"publish", "one mapping into an empty and a full table, against a raw commit and nft add element", benchPublish},
		{"command", "one mapping, and a range of ports, by a command to a daemon, against nft add element", benchCommand},
		{"cni", "ADD and DEL of the CNI plugin with 1 pod and with 1,000, against portmap's nftables backend", benchCNI},
		{"wide", "ranges of ports by commands to a daemon, adopted, and its memory and descriptors, against one port", benchWide},
		{"read", "reading 60,000 mappings back, against a raw dump and nft -j list map", benchRead},
		{"alloc", "the allocator of addresses against a bitmap and a Go map", benchAlloc},
		{"dataplane", "forwarded packets against routing, one nft rule and iptables", benchDataplane},
		{"tcp", "proxied TCP against docker-proxy, haproxy, nginx, socat and no proxy", benchTCP},
		{"udp", "proxied UDP against docker-proxy, nginx, socat and no proxy", benchUDP},
		{"unpublished", "connections on this host to a port that no mapping has, with a daemon and without", benchUnpublished},
		{"memory", "idle connections, flows and published ports against the same", benchMemory},
		{"docker", "a thousand ports that Docker publishes: memory, and connections on this host, against docker-proxy", benchDocker},
		{"footprint", "size, start and memory of the program itself, against one that does nothing", benchFootprint},
	}
}

// wants reports whether a peer is to be measured.
func (s settings) wants(peer string) bool {
	return s.peers == "" || slices.Contains(strings.Split(s.peers, ","), peer)
}

type part struct {
	name, about string
	run         func(*report, settings) error
}

// settings say what is measured and how long.
type settings struct {
	rounds   int     // interleaved rounds over all variants; the median of them counts
	mappings int     // in the full table
	singles  int     // single commits a round
	seconds  float64 // that a load lasts
	conns    int     // idle connections
	flows    int     // idle UDP flows
	ports    int     // published
	// portRange is how many ports one command publishes.
	portRange int
	only      string // the measurements of a part to make; empty: all
	peers     string // a comma-separated list of the peers to measure; empty: all
	also      string // another binary of ours to compare with; empty: none

	// Of the dataplane part, whose differences are smaller than the noise of one round.
	dataplaneRounds  int
	dataplaneSeconds float64
}

func main() {
	if name := os.Getenv(childVariable); name != "" {
		if err := runChild(name); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", name+":", err)
			os.Exit(1)
		}
		return
	}
	var s settings
	var write, note string
	flag.IntVar(&s.rounds, "rounds", 7, "interleaved rounds over all variants")
	flag.IntVar(&s.mappings, "mappings", 60000, "mappings in the full table, at most 60000")
	flag.IntVar(&s.singles, "singles", 500, "single changes a round")
	flag.Float64Var(&s.seconds, "seconds", 1, "how long each load lasts")
	flag.IntVar(&s.dataplaneRounds, "dataplane-rounds", 15, "rounds of the dataplane part")
	flag.Float64Var(&s.dataplaneSeconds, "dataplane-seconds", 0.4, "how long each load of the dataplane part lasts")
	flag.IntVar(&s.conns, "conns", 3000, "idle TCP connections")
	flag.IntVar(&s.flows, "flows", 10000, "idle UDP flows")
	flag.IntVar(&s.portRange, "range", 20000, "ports of a range, at most 60000")
	flag.IntVar(&s.ports, "ports", 1000, "published ports")
	flag.StringVar(&s.only, "only", "", "only the loads of the dataplane, tcp and udp parts whose name has this in it")
	flag.StringVar(&s.peers, "peers", "", "only these peers, with commas between")
	flag.StringVar(&s.also, "also", "", "another nftnat binary to compare with")
	flag.StringVar(&write, "write", "", "file to write the figures to, as Markdown")
	flag.StringVar(&note, "note", "", "a sentence about the run, for that file")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: bench [flags] [PART ...]")
		for _, p := range parts() {
			fmt.Fprintf(os.Stderr, "  %-9s %s\n", p.name, p.about)
		}
		flag.PrintDefaults()
	}
	flag.Parse()
	if err := measure(flag.Args(), s, write, note); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measure(names []string, s settings, write, note string) error {
	for _, name := range names {
		if !slices.ContainsFunc(parts(), func(p part) bool { return p.name == name }) {
			return fmt.Errorf("there is no part %q", name)
		}
	}
	if s.portRange < 1 || s.portRange > 60000 {
		return fmt.Errorf("give a range of 1 to 60000 ports")
	}
	if s.mappings < 1 || s.mappings > 60000 || s.rounds < 1 || s.singles < 1 || s.seconds <= 0 || s.dataplaneRounds < 1 || s.dataplaneSeconds <= 0 {
		return fmt.Errorf("give at least one round and one single change, some time, and 1 to 60000 mappings")
	}
	var rep report
	for _, p := range parts() {
		if len(names) != 0 && !slices.Contains(names, p.name) {
			continue
		}
		rep.begin(p.name)
		if err := p.run(&rep, s); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		rep.print(os.Stdout)
		if write != "" { // after each part: a later one may fail
			if err := rep.write(write, note); err != nil {
				return err
			}
		}
	}
	return nil
}
