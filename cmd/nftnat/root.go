// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/printable"
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
	// log is what a daemon logs by, unless it is quiet. Nil: lines on stderr.
	log *slog.Logger
}

// run is the whole program: it returns the exit status.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot(stderr, asked(args))
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteC()
	if err == nil {
		return exitDone
	}
	if !errors.As(err, new(shownError)) {
		// One line, whatever the error holds.
		fmt.Fprintf(stderr, "nftnat: %s%s\n", printable.Line(nameHolder(err)), hint(cmd, err))
	}
	return exitStatus(err)
}

// verb is a command, and how it is made.
type verb struct {
	name  string
	make  func(*global) *cobra.Command
	group string // of the help; empty: what is left
}

// The groups of the help.
const (
	groupPublish  = "publish"
	groupNetworks = "networks"
	groupLook     = "look"
	groupDaemon   = "daemon"
)

// groups are those of the help, in its order.
func groups() []*cobra.Group {
	return []*cobra.Group{
		{ID: groupPublish, Title: "Publish:"},
		{ID: groupNetworks, Title: "Networks and endpoints:"},
		{ID: groupLook, Title: "Look:"},
		{ID: groupDaemon, Title: "Daemon:"},
	}
}

// command makes the verb's command.
func (v verb) command(g *global) *cobra.Command {
	cmd := v.make(g)
	cmd.GroupID = v.group
	return cmd
}

// verbs are all that there are, but for those of cobra.
func verbs() []verb {
	return []verb{
		{"add", newAdd, groupPublish}, {"rm", newRm, groupPublish}, {"ls", newLs, groupPublish},
		{"apply", newApply, groupPublish}, {"export", newExport, groupPublish},
		{"network", newNetwork, groupNetworks}, {"attach", newAttach, groupNetworks}, {"detach", newDetach, groupNetworks},
		{"ps", newPs, groupNetworks}, {"inspect", newInspect, groupNetworks}, {"port", newPort, groupNetworks},
		{"status", newStatus, groupLook}, {"events", newEvents, groupLook}, {"plan", newPlan, groupLook}, {"demo", newDemo, groupLook},
		{"serve", newServe, groupDaemon}, {"purge", newPurge, groupDaemon},
		{"version", newVersion, ""},
	}
}

// asked is the verb that a command line begins with, by itself. Nil: it does not begin
// with one, and what it is takes to know them all.
func asked(args []string) []verb {
	if len(args) != 0 {
		for _, v := range verbs() {
			if v.name == args[0] {
				return []verb{v}
			}
		}
	}
	return nil
}

// newRoot makes the root of the verbs that are given, or of all, with the help and the
// completion that there are for them. To make all of them takes as long as the
// system takes to start the program.
func newRoot(stderr io.Writer, only []verb) *cobra.Command {
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
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkGlobals(cmd); err != nil {
				return err
			}
			g.tableGiven = cmd.Flags().Changed("table") && g.table != ""
			if g.table == "" {
				g.table = engine.DefaultTable
			}
			return nil
		},
	}
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		hideGlobals(cmd)
		help(cmd, args)
	})
	var printVersion bool
	root.RunE = func(cmd *cobra.Command, _ []string) error {
		if printVersion {
			return g.printVersion(cmd)
		}
		return cmd.Help()
	}
	root.Flags().BoolVar(&printVersion, "version", false, "print the version")
	root.AddGroup(groups()...)
	flags := root.PersistentFlags()
	flags.StringVar(&g.socket, "socket", os.Getenv(envSocket), "ask the daemon at the socket `PATH` (default "+defaultSocket+")")
	flags.BoolVar(&g.direct, "direct", false, "act without a daemon: localhost is not served")
	flags.StringVar(&g.netns, "netns", "", "work in this network namespace: a `NAME` of /run/netns or a path")
	flags.StringVar(&g.table, "table", engine.DefaultTable, "keep the mappings in the nftables table of this `NAME`")
	flags.BoolVar(&g.quiet, "quiet", false, "print nothing but errors and what was asked for")
	flags.BoolVar(&g.json, "json", false, "print JSON")
	_ = root.RegisterFlagCompletionFunc("netns", completeNetns) // the flag is there, which is the only error
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	if only != nil {
		root.CompletionOptions.DisableDefaultCmd = true
		for _, v := range only {
			root.AddCommand(v.command(g))
		}
		return root
	}
	for _, v := range verbs() {
		root.AddCommand(v.command(g))
	}
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

// logger is never nil: not only libraries, which take nil for none, log by it.
func (g *global) logger() *slog.Logger {
	if g.quiet {
		return slog.New(slog.DiscardHandler)
	}
	if g.log != nil {
		return g.log
	}
	return slog.New(newLineHandler(g.stderr, slog.LevelInfo, false))
}

// annotationGlobals is the annotation of a command that names the global flags which do
// something there. Others are refused, and not shown in its help.
const annotationGlobals = "globals"

// Sets of global flags, as the annotation has them.
const (
	toDaemon = "socket netns table direct quiet " // of what a daemon or an engine of the process does
	forJSON  = "json "                            // of what prints JSON, if it is told to or always
)

// offer names the global flags that do something with a command.
func offer(cmd *cobra.Command, globals string) *cobra.Command {
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations[annotationGlobals] = globals
	return cmd
}

func offers(cmd *cobra.Command, flag string) bool {
	if version := cmd.Flags().Lookup("version"); !cmd.HasParent() && version != nil && version.Changed {
		return flag == "json"
	}
	return slices.Contains(strings.Fields(cmd.Annotations[annotationGlobals]), flag)
}

// checkGlobals refuses global flags that do nothing with the command.
func checkGlobals(cmd *cobra.Command) (err error) {
	cmd.Root().PersistentFlags().VisitAll(func(f *pflag.Flag) {
		if err == nil && f.Changed && !offers(cmd, f.Name) {
			err = usageError{fmt.Errorf("--%s does nothing with %q", f.Name, cmd.CommandPath())}
		}
	})
	return err
}

// hideGlobals leaves global flags that do nothing with the command out of its help.
func hideGlobals(cmd *cobra.Command) {
	cmd.Root().PersistentFlags().VisitAll(func(f *pflag.Flag) { f.Hidden = cmd.HasParent() && !offers(cmd, f.Name) })
}
