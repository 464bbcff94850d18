// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

// show asks a publisher, and prints the answer: with --json as the document that doc makes of
// it, and else by text. A command that changes something shows its progress meanwhile.
func show[T, D any](
	g *global, cmd *cobra.Command, a access, f func(publisher, context.Context) (T, error), doc func(T) D, text func(io.Writer, T) error,
) error {
	_, err := shown(cmd.Context(), g, cmd, a, f, doc, text)
	return err
}

// change is show of what publishes something, and then warns of what is wrong with that.
func change[T, D any](
	g *global, cmd *cobra.Command, f func(publisher, context.Context) (T, error), doc func(T) D, text func(io.Writer, T) error,
	published func(T) []nat.Mapping,
) error {
	var report nat.Report
	answer, err := shown(nat.WithReport(cmd.Context(), &report), g, cmd, writing, f, doc, text)
	if err == nil {
		g.warn(cmd.Context(), published(answer), report.Notes)
	}
	return err
}

func shown[T, D any](
	ctx context.Context, g *global, cmd *cobra.Command, a access, f func(publisher, context.Context) (T, error), doc func(T) D, text func(io.Writer, T) error,
) (T, error) {
	answer, err := ask(ctx, g, a, func(p publisher, ctx context.Context) (T, error) {
		if a == writing {
			defer g.showProgress(ctx, p)()
		}
		return f(p, ctx)
	})
	if err != nil {
		return answer, err
	}
	return answer, printAnswer(g, cmd, answer, doc, text)
}

func printAnswer[T, D any](g *global, cmd *cobra.Command, answer T, doc func(T) D, text func(io.Writer, T) error) error {
	if g.json {
		return printJSON(cmd.OutOrStdout(), doc(answer))
	}
	return text(cmd.OutOrStdout(), answer)
}

// same is a document that needs no other form.
func same[T any](doc T) T { return doc }

// mappingDoc is the document of mappings, which is written without memory for all of it.
type mappingDoc struct {
	mappings []nat.Mapping
	ranges   bool
}

func (g *global) mappingDoc(ms []nat.Mapping) mappingDoc { return mappingDoc{ms, g.ranges} }

func (d mappingDoc) writeJSON(w io.Writer) error { return api.WriteMappings(w, d.mappings, d.ranges) }

func printJSON(w io.Writer, v any) error {
	if doc, ok := v.(interface{ writeJSON(w io.Writer) error }); ok {
		return doc.writeJSON(w)
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printMappings prints each mapping on a line of its own, a range as one.
func printMappings(w io.Writer, ms []nat.Mapping) error {
	for _, m := range ms {
		if _, err := fmt.Fprintln(w, m); err != nil {
			return err
		}
	}
	return nil
}

// printTable prints lines of cells that are separated by tabs, in columns.
func printTable(w io.Writer, lines func(io.Writer)) error {
	b := bufio.NewWriterSize(w, 64<<10) // a tabwriter writes each cell by itself
	t := tabwriter.NewWriter(b, 0, 8, 2, ' ', 0)
	lines(t) // Flush returns the first error
	return errors.Join(t.Flush(), b.Flush())
}

// completeFlag completes the values of a flag that the command has.
func completeFlag(cmd *cobra.Command, flag string, complete cobra.CompletionFunc) {
	_ = cmd.RegisterFlagCompletionFunc(flag, complete) // it fails for unknown flags only
}

const (
	// progressDelay is how long work takes before its progress is shown.
	progressDelay = 300 * time.Millisecond
	// progressPause is between two updates.
	progressPause = 200 * time.Millisecond
)

// eraseLine goes to the begin of a line of a terminal and erases it (ECMA-48, CR and EL).
const eraseLine = "\r\x1b[K"

// showProgress shows on a terminal how far the publisher's work is, and erases it when stop is
// called. Nothing is shown if standard error is no terminal.
func (g *global) showProgress(ctx context.Context, p publisher) (stop func()) {
	if g.quiet || g.json || !isTerminal(g.stderr) {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var showing sync.WaitGroup
	showing.Go(func() { follow(ctx, g.stderr, p.Progress) })
	return func() {
		cancel()
		showing.Wait()
	}
}

// isTerminal reports whether w is a terminal (tcgetattr(3)).
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// follow writes how far the work is, on one line, until the context is done.
func follow(ctx context.Context, w io.Writer, progress func(context.Context) (api.Progress, error)) {
	timer := time.NewTimer(progressDelay)
	defer timer.Stop()
	shown := ""
	for {
		select {
		case <-ctx.Done():
			if shown != "" {
				_, _ = io.WriteString(w, eraseLine)
			}
			return
		case <-timer.C:
		}
		line := "waiting for the daemon"
		if p, err := progress(ctx); err == nil && p.Step != "" {
			line = progressLine(p)
		}
		if line != shown && ctx.Err() == nil {
			shown = line
			_, _ = io.WriteString(w, eraseLine+"nftnat: "+line)
		}
		timer.Reset(progressPause)
	}
}

func progressLine(p api.Progress) string {
	words := map[string]string{
		"reserve": "reserving ports", "bind": "binding ports", "forward": "turning on forwarding",
		"commit": "changing the table", "save": "writing the state file",
		"flows": "looking for flows", "open": "opening proxies", "done": "done",
	}[p.Step]
	if words == "" {
		words = p.Step // of a newer daemon
	}
	if p.Total != 0 {
		words += fmt.Sprintf(": %d of %d", p.Done, p.Total)
	}
	return words
}
