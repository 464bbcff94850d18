// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/explain"
	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/internal/daemon"
	"github.com/nftnat/nftnat/internal/printable"
	"github.com/nftnat/nftnat/nat"
)

// warnTime bounds how long a command that has published something looks for what is wrong with it, and
// maxAsked for how many mappings it asks the daemon if it may not look by itself.
const (
	warnTime = 40 * time.Millisecond
	maxAsked = 4
)

// warn prints what is wrong with mappings that have been published and printed, a line a cause, except
// what notes have said. The command has succeeded: what cannot be found out is not told.
func (g *global) warn(ctx context.Context, ms []nat.Mapping, notes []string) {
	if g.quiet || len(ms) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, warnTime)
	defer cancel()
	for _, f := range g.warnings(ctx, ms) {
		if noted(f, notes) {
			continue
		}
		_, _ = fmt.Fprintf(g.stderr, "nftnat: %s\n", printable.Line(f.String()))
	}
}

// noted reports whether the engine has said the same: that there is no route to a backend, or that
// another table translates a port.
func noted(f report.Finding, notes []string) bool {
	return slices.ContainsFunc(f.Mappings, func(m nat.Mapping) bool {
		return slices.ContainsFunc(notes, func(n string) bool {
			switch f.Kind {
			case report.KindRoute:
				return strings.Contains(n, "no route to the backend") && strings.HasSuffix(n, "="+m.Backend.Addr().String())
			case report.KindRival:
				return strings.Contains(n, "also translates "+nat.DescribeFrontend(m))
			}
			return false
		})
	})
}

func (g *global) warnings(ctx context.Context, ms []nat.Mapping) []report.Finding {
	inode, err := g.namespaceInode()
	if err != nil {
		return nil
	}
	at, there := daemon.ExplainOptions{Table: g.table, NetNS: g.namespacePath()}, true
	var client *api.Client
	if g.socket != "" && !g.direct {
		var found api.Daemon
		if client, found, err = g.askGiven(ctx, inode); err != nil {
			return nil
		}
		at, there = sameNamespace(at, found, inode)
	}
	if there {
		found, err := daemon.Warn(ctx, at, ms)
		if g.direct || !errors.Is(err, fs.ErrPermission) {
			return found
		}
	}
	if client == nil {
		if client, _, err = g.locate(ctx); err != nil {
			return nil
		}
	}
	return askWarnings(ctx, client, ms)
}

// askWarnings asks the daemon about some mappings.
func askWarnings(ctx context.Context, client *api.Client, ms []nat.Mapping) (found []report.Finding) {
	known := map[string]bool{}
	for _, m := range ms[:min(len(ms), maxAsked)] {
		r, err := client.Explain(ctx, report.Query{Proto: m.Proto, Frontend: netip.AddrPortFrom(m.Frontend.Addr(), m.Frontend.Port())})
		if err != nil {
			break
		}
		if f, ok := explain.WarningOf(r); ok && !known[f.Key()] {
			known[f.Key()] = true
			found = append(found, f)
		}
	}
	return found
}

// appendNew appends what a change has published or changed.
func appendNew(ms []nat.Mapping, c nat.Change) []nat.Mapping {
	if c.New.Proto != 0 {
		ms = append(ms, c.New)
	}
	return ms
}
