// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/fleet/desired"
	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/internal/printable"
	"github.com/nftnat/nftnat/state"
)

// scopeChoice say of which hosts something is desired.
type scopeChoice struct {
	host, group string
	all         bool
}

func (f *scopeChoice) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.host, "host", "", "of the host of this `NAME`")
	cmd.Flags().StringVar(&f.group, "group", "", "of the hosts of the group of this `NAME`")
	cmd.Flags().BoolVar(&f.all, "all", false, "of all hosts")
}

// scope is what the flags say. given is false if there are none.
func (f *scopeChoice) scope(cmd *cobra.Command) (s keys.Scope, given bool, err error) {
	n := 0
	for _, name := range []string{"host", "group", "all"} {
		if cmd.Flags().Changed(name) {
			n++
		}
	}
	switch {
	case n > 1:
		return s, true, usageError{errors.New("--host, --group and --all exclude one another")}
	case cmd.Flags().Changed("host"):
		s = keys.OfHost(f.host)
		err = keys.ValidateName("host", f.host)
	case cmd.Flags().Changed("group"):
		s = keys.OfGroup(f.group)
		err = keys.ValidateName("group", f.group)
	}
	return s, n == 1 && (!cmd.Flags().Changed("all") || f.all), err
}

// required is scope, of which one must be given.
func (f *scopeChoice) required(cmd *cobra.Command) (keys.Scope, error) {
	s, given, err := f.scope(cmd)
	if err == nil && !given {
		err = usageError{errors.New("say for which hosts: --host NAME, --group NAME or --all")}
	}
	return s, err
}

// values reads a file, or standard input for "-".
func values(cmd *cobra.Command, scope keys.Scope, path string) (map[string]string, error) {
	if path == "" {
		return nil, usageError{errors.New("say which file: -f FILE, or -f - for standard input")}
	}
	in, name := cmd.InOrStdin(), "standard input"
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, usageError{err}
		}
		defer f.Close()
		in, name = f, path
	}
	s, err := state.Decode(in, name)
	if err != nil {
		return nil, err
	}
	return desired.Values(scope, s)
}

func newApply(g *global) *cobra.Command {
	var (
		scope           scopeChoice
		file            string
		dryRun, abandon bool
	)
	cmd := &cobra.Command{
		Use:   "apply -f FILE --host NAME|--group NAME|--all",
		Short: "Make what is desired of hosts exactly what a file has",
		Long: "apply makes the mappings and networks that are desired of a host, of a group or of all hosts\n" +
			"exactly those of a file, which is that of \"nftnat export\". A mapping without a name gets one of\n" +
			"its frontend. Of one name, what is desired of the host counts before what is desired of its\n" +
			"groups, and that before what is desired of all.",
		Example: "  nftnat-fleet apply -f web.yaml --group edge",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			sc, err := scope.required(cmd)
			if err != nil {
				return err
			}
			want, err := values(cmd, sc, file)
			if err != nil {
				return err
			}
			return withStore(g, func(ctx context.Context, cmd *cobra.Command, s *store.Store, _ []string) error {
				if dryRun {
					ds, err := desired.Diff(ctx, s, sc, want)
					return errors.Join(g.printDifferences(cmd.OutOrStdout(), ds), err)
				}
				o := desired.WriteOptions{By: writer(), Abandon: abandon, Told: func(n int) {
					fmt.Fprintf(g.stderr, "nftnat-fleet: writing %d keys; hosts apply them together when all are there\n", n)
				}}
				ds, _, err := desired.Write(ctx, s, sc, want, o)
				if err != nil {
					return fmt.Errorf("apply to %s: %w", sc, err)
				}
				return g.printDifferences(cmd.OutOrStdout(), ds)
			})(cmd, nil)
		},
	}
	scope.add(cmd)
	cmd.Flags().StringVarP(&file, "file", "f", "", "read this `FILE`; - is standard input")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would change, and change nothing")
	cmd.Flags().BoolVar(&abandon, "abandon", false, "take what was written of another change, which was not finished")
	return cmd
}

func newDiff(g *global) *cobra.Command {
	var (
		scope scopeChoice
		file  string
	)
	cmd := &cobra.Command{
		Use:     "diff -f FILE --host NAME|--group NAME|--all",
		Short:   "Print what apply would change",
		Example: "  nftnat-fleet diff -f web.yaml --group edge",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			sc, err := scope.required(cmd)
			if err != nil {
				return err
			}
			want, err := values(cmd, sc, file)
			if err != nil {
				return err
			}
			return withStore(g, func(ctx context.Context, cmd *cobra.Command, s *store.Store, _ []string) error {
				ds, err := desired.Diff(ctx, s, sc, want)
				return errors.Join(g.printDifferences(cmd.OutOrStdout(), ds), err)
			})(cmd, nil)
		},
	}
	scope.add(cmd)
	cmd.Flags().StringVarP(&file, "file", "f", "", "read this `FILE`; - is standard input")
	return cmd
}

// printDifferences prints a line, or an object, for each.
func (g *global) printDifferences(w io.Writer, ds []desired.Difference) error {
	if !g.json {
		for _, d := range ds {
			if _, err := fmt.Fprintln(w, printable.Text(d.String())); err != nil {
				return err
			}
		}
		return nil
	}
	type difference struct {
		Key string `json:"key"`
		Old string `json:"old,omitempty"`
		New string `json:"new,omitempty"`
	}
	docs := []difference{}
	for _, d := range ds {
		docs = append(docs, difference{d.Item.Key(), d.Old, d.New})
	}
	return json.NewEncoder(w).Encode(docs)
}

// writer says who writes.
func writer() string {
	name, _ := os.Hostname()
	if u, err := user.Current(); err == nil {
		name = u.Username + "@" + name
	}
	return fmt.Sprintf("%s (process %d)", name, os.Getpid())
}

func newGet(g *global) *cobra.Command {
	var scope scopeChoice
	cmd := &cobra.Command{
		Use:   "get [--host NAME|--group NAME|--all]",
		Short: "Print what is desired",
		Long: "get prints every item that is desired, a line each: of which hosts, what it is, its name, its value.\n" +
			"Of one host, one group or all it prints the file that apply takes.",
		Example: "  nftnat-fleet get --group edge >web.yaml",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			sc, given, err := scope.scope(cmd)
			if err != nil {
				return err
			}
			return withStore(g, func(ctx context.Context, cmd *cobra.Command, s *store.Store, _ []string) error {
				if given && !g.json {
					st, err := desired.Read(ctx, s, sc)
					if err != nil {
						return err
					}
					return state.Encode(cmd.OutOrStdout(), st)
				}
				prefix := keys.Desired
				if given {
					prefix = sc.Prefix()
				}
				snap, err := s.List(ctx, prefix)
				if err != nil {
					return err
				}
				return g.printItems(cmd.OutOrStdout(), snap.Entries)
			})(cmd, nil)
		},
	}
	scope.add(cmd)
	return cmd
}

func (g *global) printItems(w io.Writer, entries []store.Entry) error {
	if g.json {
		type item struct {
			Key      string `json:"key"`
			Value    string `json:"value"`
			Revision int64  `json:"revision"`
		}
		docs := []item{}
		for _, e := range entries {
			docs = append(docs, item{e.Key, e.Value, e.Modified})
		}
		return json.NewEncoder(w).Encode(docs)
	}
	for _, e := range entries {
		what := e.Key
		if i, err := keys.ParseItem(e.Key); err == nil {
			what = i.String()
		}
		if _, err := fmt.Fprintf(w, "%s: %s\n", printable.Text(what), printable.Text(strings.ReplaceAll(strings.TrimSpace(e.Value), "\n", " | "))); err != nil {
			return err
		}
	}
	return nil
}
