// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/nat"
)

// show asks a publisher, and prints the answer: with --json as the document that doc makes of
// it, and else by text. A command that changes something shows its progress meanwhile.
func show[T, D any](
	g *global, cmd *cobra.Command, a access, f func(publisher, context.Context) (T, error), doc func(T) D, text func(io.Writer, T) error,
) error {
	answer, err := ask(cmd.Context(), g, a, func(p publisher, ctx context.Context) (T, error) {
		if a == writing {
			defer g.showProgress(ctx, p)()
		}
		return f(p, ctx)
	})
	if err != nil {
		return err
	}
	return printAnswer(g, cmd, answer, doc, text)
}

func printAnswer[T, D any](g *global, cmd *cobra.Command, answer T, doc func(T) D, text func(io.Writer, T) error) error {
	if g.json {
		return printJSON(cmd.OutOrStdout(), doc(answer))
	}
	return text(cmd.OutOrStdout(), answer)
}

// same is a document that needs no other form.
func same[T any](doc T) T { return doc }

func printJSON(w io.Writer, v any) error {
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
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	lines(t) // Flush returns the first error
	return t.Flush()
}

// completeFlag completes the values of a flag that the command has.
func completeFlag(cmd *cobra.Command, flag string, complete cobra.CompletionFunc) {
	_ = cmd.RegisterFlagCompletionFunc(flag, complete) // it fails for unknown flags only
}
