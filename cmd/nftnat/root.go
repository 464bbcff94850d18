// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/engine"
)

// lockWait is how long a command waits for another one to be done with the table.
const lockWait = 10 * time.Second

// global are the flags that every verb has.
type global struct {
	socket string
	direct bool
	netns  string
	table  string
	quiet  bool
	json   bool
	// tableGiven is whether the table was named on the command line.
	tableGiven bool

	stderr io.Writer
}

// run is the whole program: it returns the exit status.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot(stderr)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.Execute()
	if err == nil {
		return exitDone
	}
	var start startError
	if !errors.As(err, &start) || !start.shown {
		// One line, whatever the error holds.
		fmt.Fprintf(stderr, "nftnat: %s%s\n", oneLine(err.Error()), hint(err))
	}
	return exitStatus(err)
}

func newRoot(stderr io.Writer) *cobra.Command {
	g := &global{stderr: stderr}
	root := &cobra.Command{
		Use:   "nftnat",
		Short: "Publish host ports to backends, over netlink alone",
		Long: "nftnat publishes host ports to backends in an nftables table of its own:\n" +
			"what arrives at this host's tcp 8080 goes to 172.17.0.2:80. It speaks to the\n" +
			"kernel over netlink and executes no other program.",
		Example:       "  nftnat add tcp 8080 172.17.0.2:80\n  nftnat ls\n  nftnat rm tcp 8080",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          usage(cobra.NoArgs),
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRun: func(cmd *cobra.Command, _ []string) {
			g.tableGiven = cmd.Flags().Changed("table") && g.table != ""
			if g.table == "" {
				g.table = engine.DefaultTable
			}
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&g.socket, "socket", os.Getenv(envSocket), "ask the daemon at this socket (default "+defaultSocket+")")
	flags.BoolVar(&g.direct, "direct", false, "act without a daemon: localhost is not served")
	flags.StringVar(&g.netns, "netns", "", "work in this network namespace: a `NAME` of /run/netns or a path")
	flags.StringVar(&g.table, "table", engine.DefaultTable, "keep the mappings in the nftables table of this `NAME`")
	flags.BoolVar(&g.quiet, "quiet", false, "print nothing but errors and what was asked for")
	flags.BoolVar(&g.json, "json", false, "print JSON")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(
		newAdd(g), newRm(g), newLs(g),
		newNetwork(g), newAttach(g), newDetach(g), newPs(g), newInspect(g), newPort(g),
		newApply(g), newExport(g),
		newServe(g), newStatus(g), newEvents(g), newPlan(g), newPurge(g), newDemo(g), newVersion(g),
		newOnlooker(),
	)
	refuseUnknown(root)
	return root
}

// refuseUnknown makes the verbs that cobra adds by itself refuse what they do not
// know, where they would print help and exit 0.
func refuseUnknown(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "completion":
			cmd.Args = usage(cobra.NoArgs)
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			for _, shell := range cmd.Commands() {
				shell.Args = usage(cobra.NoArgs)
			}
		case "help":
			cmd.Args = usage(func(cmd *cobra.Command, args []string) error {
				if _, rest, err := cmd.Root().Find(args); err != nil || len(rest) > 0 {
					return fmt.Errorf("unknown help topic %q", strings.Join(args, " "))
				}
				return nil
			})
		}
	}
}

func (g *global) logger() *slog.Logger {
	if g.quiet {
		return nil
	}
	return slog.New(&lineHandler{w: g.stderr})
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
