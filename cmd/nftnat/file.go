// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/state"
)

func newApply(g *global) *cobra.Command {
	var (
		file   string
		dryRun bool
	)
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Make networks, endpoints and mappings match a file",
		Long: "Make networks, endpoints and mappings match a YAML file exactly, in one transaction,\n" +
			"and print a line for each change: + added, - removed, ~ old => new. What matches\n" +
			"already is not touched. What the file does not list is removed.",
		Example: "  nftnat apply -f ports.yaml --dry-run\n  nftnat export | nftnat apply -f -",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usageError{fmt.Errorf("apply needs -f FILE, or -f - for standard input")}
			}
			want, more, err := readFile(cmd, file)
			if err != nil {
				return err
			}
			if dryRun {
				return show(g, cmd, reading, func(p publisher, ctx context.Context) ([]nat.Change, error) {
					return p.DiffState(ctx, whole(want, more))
				}, g.changeDocs, printChanges)
			}
			// Of many changes a slice takes more memory than all else.
			var made []nat.Mapping // what an engine of this process has published
			out := bufio.NewWriterSize(cmd.OutOrStdout(), 32<<10)
			if !g.json {
				g.changes = func(c nat.Change) {
					printChange(out, c)
					if !g.quiet {
						made = appendNew(made, c)
					}
				}
			}
			return change(g, cmd, func(p publisher, ctx context.Context) ([]nat.Change, error) {
				if d, ok := p.(direct); ok {
					return d.ApplyMany(ctx, want, more)
				}
				return p.ApplyState(ctx, whole(want, more))
			}, g.changeDocs, func(_ io.Writer, changes []nat.Change) error {
				for _, c := range changes {
					g.changes(c)
				}
				return out.Flush() // which has the first error
			}, func(changes []nat.Change) []nat.Mapping {
				if g.json && !g.quiet {
					for _, c := range changes {
						made = appendNew(made, c)
					}
				}
				return made
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&file, "file", "f", "", "the YAML `FILE`, or - for standard input")
	flags.BoolVar(&dryRun, "dry-run", false, "print what would change, and change nothing")
	return offer(cmd, toDaemon+forPorts)
}

// readFile reads a file. Of very many mappings there may be no list.
func readFile(cmd *cobra.Command, name string) (nat.State, nat.Mappings, error) {
	if name == "-" {
		return state.Scan(cmd.InOrStdin(), "standard input")
	}
	f, err := os.Open(name)
	if err != nil {
		return nat.State{}, nat.Mappings{}, usageError{err}
	}
	defer func() { _ = f.Close() }() // was only read
	return state.Scan(f, name)
}

// whole returns a state with all mappings.
func whole(s nat.State, more nat.Mappings) nat.State {
	s.Mappings = append(slices.Clip(s.Mappings), more.Slice()...)
	return s
}

// changeDocs are the documents of changes.
func (g *global) changeDocs(changes []nat.Change) []api.Change {
	if g.ranges {
		return api.RangeChanges(changes)
	}
	return api.Changes(changes)
}

func printChanges(w io.Writer, changes []nat.Change) error {
	out := bufio.NewWriter(w) // a call for each of many is a tenth of the time
	for _, c := range changes {
		printChange(out, c)
	}
	return out.Flush() // which has the first error
}

func printChange(out *bufio.Writer, c nat.Change) {
	_, _ = out.WriteString(c.String())
	_ = out.WriteByte('\n')
}

func newExport(g *global) *cobra.Command {
	return offer(&cobra.Command{
		Use:   "export",
		Short: "Print networks, endpoints and mappings as a file for apply",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := ask(cmd.Context(), g, reading, publisher.State)
			if err != nil {
				return err
			}
			return state.Encode(cmd.OutOrStdout(), s)
		},
	}, toDaemon)
}
