// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Command bench measures nftnat against limits and peers, in throwaway network
// namespaces:
//
//	sudo go run ./bench [PART ...]
//
// Every figure is a ratio to something run in the same minute, because absolute
// times mean little on shared machines. A peer that is not installed is left out,
// and named.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
)

// parts are the measurements by name.
var parts = []struct {
	name, about string
	run         func(*report, settings) error
}{
	{"apply", "60,000 mappings in one transaction, against a raw netlink batch and nft -f", benchApply},
	{"publish", "one mapping into an empty and a full table, against a raw commit and nft add element", benchPublish},
	{"read", "reading 60,000 mappings back, against a raw dump and nft -j list map", benchRead},
}

// settings are how much is measured.
type settings struct {
	rounds   int // interleaved rounds over all variants; the median of them counts
	mappings int // in the full table
	singles  int // single commits a round
}

func main() {
	var s settings
	flag.IntVar(&s.rounds, "rounds", 7, "interleaved rounds over all variants")
	flag.IntVar(&s.mappings, "mappings", 60000, "mappings in the full table, at most 60000")
	flag.IntVar(&s.singles, "singles", 500, "single changes a round")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: bench [flags] [PART ...]")
		for _, p := range parts {
			fmt.Fprintf(os.Stderr, "  %-8s %s\n", p.name, p.about)
		}
		flag.PrintDefaults()
	}
	flag.Parse()
	if err := measure(flag.Args(), s); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measure(names []string, s settings) error {
	for _, name := range names {
		if !slices.ContainsFunc(parts, func(p struct {
			name, about string
			run         func(*report, settings) error
		}) bool {
			return p.name == name
		}) {
			return fmt.Errorf("there is no part %q", name)
		}
	}
	if s.mappings < 1 || s.mappings > 60000 || s.rounds < 1 || s.singles < 1 {
		return fmt.Errorf("give at least one round and one single change, and 1 to 60000 mappings")
	}
	for _, p := range parts {
		if len(names) != 0 && !slices.Contains(names, p.name) {
			continue
		}
		r := newReport(p.name + ": " + strings.ReplaceAll(p.about, "60,000", fmt.Sprint(s.mappings)))
		if err := p.run(r, s); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		r.print(os.Stdout)
	}
	return nil
}
