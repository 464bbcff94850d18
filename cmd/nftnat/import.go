// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/printable"
	"github.com/nftnat/nftnat/migrate"
	"github.com/nftnat/nftnat/nat"
)

func newImport(g *global) *cobra.Command {
	var (
		file          string
		apply, remove bool
	)
	names := make([]string, 0, len(migrate.Sources()))
	for _, s := range migrate.Sources() {
		names = append(names, s.String())
	}
	cmd := &cobra.Command{
		Use:        "import SOURCE",
		SuggestFor: []string{"migrate"},
		Short:      "Find what other programs publish, and publish it in their place",
		Long: "Find what another program publishes, and print it as a file for apply: each mapping\n" +
			"behind the rule or record that it is from, and as comments what was left out, and why.\n" +
			"Nothing is changed, and no program is run.\n\n" +
			"SOURCE is docker, cni, netavark, iptables, nftables or miniupnpd. -f reads a file that\n" +
			"was saved: text of iptables-save or iptables-legacy-save, JSON of docker inspect or of\n" +
			"nft --json list ruleset, a result of a CNI plugin, leases of miniupnpd.\n\n" +
			"With --apply what was found is published, all or nothing, beside what is published\n" +
			"already. With --remove-theirs as well, their rules that have been replaced are deleted\n" +
			"when that is done, in one transaction, so that the ports are published at every moment.",
		Example: "  nftnat import docker\n  iptables-legacy-save | nftnat import iptables -f - > ports.yaml\n" +
			"  nftnat import cni --apply --remove-theirs",
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			source, err := migrate.ParseSource(args[0])
			switch {
			case err != nil:
				return err
			case remove && !apply:
				return usageError{errors.New("--remove-theirs is for what --apply has published")}
			case cmd.Flags().Changed("file") && file == "":
				return usageError{errors.New("-f is empty: it is the name of a file, or - for standard input")}
			}
			o := migrate.Options{Source: source, Table: g.table, NetNS: g.namespacePath()}
			if err := engine.ValidateTableName(g.table); err != nil {
				return err
			}
			if _, err := g.namespaceInode(); err != nil {
				return err
			}
			if file != "" {
				if o.File, o.Data, err = importFile(cmd, file); err != nil {
					return err
				}
			}
			if file == "" || apply { // what is published already is held by the daemon itself
				if o.Published, err = ask(cmd.Context(), g, reading, publisher.Mappings); err != nil {
					return err
				}
			}
			im, err := migrate.Read(cmd.Context(), o)
			if err != nil {
				return err
			}
			if apply {
				return g.importApply(cmd, o, im, remove)
			}
			if err := printAnswer(g, cmd, im, importDocOf, func(w io.Writer, im *migrate.Import) error { return im.Write(w) }); err != nil {
				return err
			}
			return found(im)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&file, "file", "f", "", "read this `FILE`, or - for standard input")
	flags.BoolVar(&apply, "apply", false, "publish what was found")
	flags.BoolVar(&remove, "remove-theirs", false, "with --apply, delete the rules that have been replaced")
	cmd.ValidArgsFunction = cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp)
	return offer(cmd, toDaemon+forJSON)
}

// importFile reads a file that was saved.
func importFile(cmd *cobra.Command, name string) (shown string, data []byte, err error) {
	in := cmd.InOrStdin()
	shown = "standard input"
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", nil, usageError{err}
		}
		defer func() { _ = f.Close() }() // was only read
		in, shown = f, name
	}
	if data, err = io.ReadAll(io.LimitReader(in, migrate.MaxFile+1)); err != nil {
		return "", nil, usageError{fmt.Errorf("read %s: %w", shown, err)}
	}
	if len(data) > migrate.MaxFile {
		return "", nil, usageError{fmt.Errorf("%s has more than %d bytes", shown, migrate.MaxFile)}
	}
	return shown, data, nil
}

// found is an error if nothing was found.
func found(im *migrate.Import) error {
	if len(im.Entries) == 0 {
		return fmt.Errorf("import %s: %w", im.Source, migrate.ErrNothing)
	}
	return nil
}

// importDoc is the document of an import.
type importDoc struct {
	Mappings []importedDoc `json:"mappings"`
	LeftOut  []leftOutDoc  `json:"left_out"`
	Removed  []string      `json:"removed,omitempty"`
	Kept     []leftOutDoc  `json:"kept,omitempty"`
}

type importedDoc struct {
	Mapping string   `json:"mapping"`
	Name    string   `json:"name,omitempty"`
	Origins []string `json:"origins"`
	Notes   []string `json:"notes,omitempty"`
}

type leftOutDoc struct {
	Origin string `json:"origin"`
	Reason string `json:"reason"`
}

func importDocOf(im *migrate.Import) importDoc {
	doc := importDoc{Mappings: []importedDoc{}, LeftOut: leftOutDocs(im.LeftOut)}
	for _, e := range im.Entries {
		doc.Mappings = append(doc.Mappings, importedDoc{e.Mapping.String(), e.Mapping.Name, e.Origins, e.Notes})
	}
	return doc
}

func leftOutDocs(list []migrate.LeftOut) []leftOutDoc {
	docs := []leftOutDoc{}
	for _, l := range list {
		docs = append(docs, leftOutDoc{l.Origin, l.Reason})
	}
	return docs
}

// importApply publishes what was found, and perhaps removes the rules that have been replaced.
func (g *global) importApply(cmd *cobra.Command, o migrate.Options, im *migrate.Import, remove bool) error {
	g.say(im.LeftOut, "left out: ")
	if err := found(im); err != nil {
		return err
	}
	ms := im.Mappings()
	var report nat.Report
	ctx := nat.WithReport(cmd.Context(), &report)
	published, err := ask(ctx, g, writing, func(p publisher, ctx context.Context) ([]nat.Mapping, error) {
		defer g.showProgress(ctx, p)()
		return p.Publish(ctx, nat.PublishOptions{}, ms...)
	})
	if err != nil {
		return err
	}
	doc := importDocOf(im)
	if remove {
		removed, err := g.removeTheirs(cmd.Context(), o, ms)
		if err != nil {
			return err
		}
		doc.Removed, doc.Kept = removed.Rules, leftOutDocs(removed.Kept)
		for _, r := range removed.Rules {
			g.note("removed: " + r)
		}
		g.say(removed.Kept, "not removed: ")
		if len(removed.Rules) == 0 && len(removed.Kept) == 0 {
			g.note("no rules of theirs were there to be removed")
		}
	}
	if g.json {
		err = printJSON(cmd.OutOrStdout(), doc)
	} else {
		err = printMappings(cmd.OutOrStdout(), published)
	}
	if err == nil {
		g.warn(cmd.Context(), published, report.Notes)
	}
	return err
}

// removeTheirs removes rules if the kernel has all mappings that replace them.
func (g *global) removeTheirs(ctx context.Context, o migrate.Options, ms []nat.Mapping) (migrate.Removed, error) {
	now, err := ask(ctx, g, reading, publisher.Mappings)
	if err != nil {
		return migrate.Removed{}, err
	}
	for _, m := range ms {
		for port := range nat.Expand(m) {
			if !slices.ContainsFunc(now, func(n nat.Mapping) bool { return serves(n, port) }) {
				return migrate.Removed{}, fmt.Errorf("remove rules: %s is not published any more: none was removed", port)
			}
		}
	}
	return migrate.Remove(ctx, o, ms)
}

// serves reports whether a mapping is that of a port, or a range with it.
func serves(n, port nat.Mapping) bool {
	front, to := n.Frontend.Port(), port.Frontend.Port()
	return n.Proto == port.Proto && n.Frontend.Addr() == port.Frontend.Addr() && n.Backend.Addr() == port.Backend.Addr() &&
		front <= to && to-front <= n.More && n.Backend.Port()+(to-front) == port.Backend.Port()
}

func (g *global) say(list []migrate.LeftOut, what string) {
	for _, l := range list {
		g.note(what + l.Origin + ": " + l.Reason)
	}
}

// note prints a line on standard error, unless it is quiet.
func (g *global) note(text string) {
	if !g.quiet {
		_, _ = fmt.Fprintf(g.stderr, "nftnat: %s\n", strings.TrimSpace(printable.Line(text)))
	}
}
