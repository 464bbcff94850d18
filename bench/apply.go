// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/nat"
)

// benchApply fills an empty table with few and with many mappings.
func benchApply(rep *report, s settings) error {
	return withTools(func(t *tools) error {
		counts := slices.DeleteFunc([]int{100, 1000, 10000}, func(n int) bool { return n >= s.mappings })
		for _, count := range append(counts, s.mappings) {
			if err := rep.apply(t, s, count, false); err != nil {
				return err
			}
		}
		return rep.apply(t, s, s.mappings, true)
	})
}

// apply measures one number of mappings, which have one backend or each their own.
func (rep *report) apply(t *tools, s settings, count int, each bool) error {
	title := fmt.Sprintf("%d mappings in one transaction", count)
	if each {
		title = fmt.Sprintf("%d mappings to as many backends in one transaction", count)
	}
	took := rep.table(title, seconds)
	memory := rep.table(title+", memory of the process at most", "KiB")
	took.note("the file for nftnat is JSON")
	ms := mappings(firstPort, count)
	if each {
		ms = mappingsToEach(firstPort, count)
	}
	f, err := writeFiles(t.dir, ms)
	if err != nil {
		return err
	}
	variants := []func(*lab.NS) error{
		func(ns *lab.NS) error {
			return withRaw(ns, func(raw *rawSocket) error {
				return timed(took, "raw netlink batch into a sized map (the limit)", func() error {
					return raw.commit(batch(slices.Concat(tableMessages(), mappingMessages(ms))))
				})
			})
		},
		func(ns *lab.NS) error {
			return withEngine(ns, func(e *engine.Engine) error {
				return timed(took, "engine.Apply, in process", func() error {
					_, err := e.Apply(context.Background(), ms...)
					return err
				})
			})
		},
		func(ns *lab.NS) error {
			return t.process(ns, took, memory, "nftnat apply -f, whole process",
				t.nftnat, "apply", "--direct", "--quiet", "-f", f.nftnat)
		},
		func(ns *lab.NS) error {
			return t.process(ns, took, memory, "nftnat apply -f, whole process, YAML",
				t.nftnat, "apply", "--direct", "--quiet", "-f", f.yaml)
		},
	}
	if s.also != "" {
		variants = append(variants, func(ns *lab.NS) error {
			return t.process(ns, took, memory, "another nftnat apply -f, whole process",
				s.also, "apply", "--direct", "--quiet", "-f", f.nftnat)
		})
	}
	for _, peer := range []struct {
		name string
		args []string
	}{
		{"nft", []string{"-f", f.nft}},
		{"iptables-legacy-restore", []string{f.iptables}},
		{"iptables-nft-restore", []string{f.iptables}},
	} {
		if !s.wants(peer.name) || !installed(took, peer.name) {
			continue
		}
		variants = append(variants, func(ns *lab.NS) error {
			variant := peer.name + ", whole process"
			if peer.name == "nft" {
				variant = "nft -f, whole process"
			}
			return t.process(ns, took, memory, variant, peer.name, peer.args...)
		})
	}
	if each {
		for i, v := range variants {
			variants[i] = func(ns *lab.NS) error {
				if err := routed(ns); err != nil {
					return err
				}
				return v(ns)
			}
		}
	}
	return rounds(s.rounds, variants)
}

// files are files of the same mappings, one for each program.
type files struct{ nftnat, yaml, nft, iptables string }

// writeFiles writes the files. That of nft also has nftnat's ruleset, so that both load the
// same; that of iptables has a rule for each mapping.
func writeFiles(dir string, ms []nat.Mapping) (files, error) {
	plan, err := engine.Plan("")
	if err != nil {
		return files{}, err
	}
	j, n, i := bytes.NewBufferString(`{"mappings":[`), bytes.NewBufferString(plan), bytes.NewBufferString("*nat\n")
	y := bytes.NewBufferString("mappings:\n")
	n.WriteString("add element inet nftnat tcp4 {\n")
	for k, m := range ms {
		if k > 0 {
			j.WriteByte(',')
		}
		port, to, toPort := m.Frontend.Port(), m.Backend.Addr(), m.Backend.Port()
		fmt.Fprintf(j, "\n%q", m)
		fmt.Fprintf(y, "- %s\n", m)
		fmt.Fprintf(n, "%d : %s . %d,\n", port, to, toPort)
		fmt.Fprintf(i, "-A PREROUTING -p tcp --dport %d -j DNAT --to-destination %s:%d\n", port, to, toPort)
	}
	j.WriteString("]}\n")
	n.WriteString("}\n")
	i.WriteString("COMMIT\n")
	f := files{filepath.Join(dir, "ports.json"), filepath.Join(dir, "ports.yaml"), filepath.Join(dir, "ports.nft"), filepath.Join(dir, "ports.iptables")}
	for path, text := range map[string][]byte{f.nftnat: j.Bytes(), f.yaml: y.Bytes(), f.nft: n.Bytes(), f.iptables: i.Bytes()} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return files{}, err
		}
	}
	return f, nil
}
