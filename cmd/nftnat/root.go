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
	"github.com/nftnat/nftnat/nat"
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
	ranges bool // in JSON a range is one object
	// tableGiven says that the table was named on the command line.
	tableGiven bool

	stderr io.Writer
	// changes is called with the changes that an engine of this process applies; nil: they are
	// returned.
	changes func(nat.Change)
	// log is that of a daemon, unless it is quiet. Nil: lines on stderr.
	log *slog.Logger
}

// run runs a command line and returns its exit status.
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
		fmt.Fprintf(stderr, "nftnat: %s%s\n", printable.Line(nameHolder(workplace(cmd), err)), hint(cmd, err))
	}
	return exitStatus(err)
}

// workplace is the path of the network namespace that was given to a command; empty: none was.
func workplace(cmd *cobra.Command) string {
	flag := cmd.Flag("netns")
	if flag == nil {
		return ""
	}
	g := global{netns: flag.Value.String()}
	return g.namespacePath()
}

// verb is a command of the first level: its name, how it is made, and its group in the help;
// empty: it is in none.
type verb struct {
	name  string
	make  func(*global) *cobra.Command
	group string
}

// verbs are all but those of cobra, in the order of their groups.
func verbs() []verb {
	const publish, networks, look, daemon, others = "Publish:", "Networks and endpoints:", "Look:", "Daemon:", "For other programs:"
	return []verb{
		{"add", newAdd, publish}, {"rm", newRm, publish}, {"ls", newLs, publish}, {"apply", newApply, publish}, {"export", newExport, publish}, {"import", newImport, publish},
		{"network", newNetwork, networks}, {"attach", newAttach, networks}, {"detach", newDetach, networks},
		{"ps", newPs, networks}, {"inspect", newInspect, networks}, {"port", newPort, networks},
		{"explain", newExplain, look}, {"doctor", newDoctor, look}, {"trace", newTrace, look}, {"status", newStatus, look}, {"events", newEvents, look}, {"plan", newPlan, look}, {"demo", newDemo, look},
		{"serve", newServe, daemon}, {"purge", newPurge, daemon},
		{verbDockerProxy, newDockerProxy, others}, {"docker", newDocker, others},
		{"cni", newCNI, others}, {"gateway", newGateway, others}, {"web", newWeb, others},
		{"version", newVersion, ""},
	}
}

// asked is the verb that a command line begins with, alone. Nil: it does not begin with one, and
// all are needed to understand it.
func asked(args []string) []verb {
	return slices.DeleteFunc(verbs(), func(v verb) bool { return len(args) == 0 || v.name != args[0] })
}

// newRoot makes the root command with some verbs, or with all if there are none, and with help and
// completion. Making all verbs takes as long as the system takes to start the program.
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
	flags := root.PersistentFlags()
	flags.StringVar(&g.socket, "socket", os.Getenv(envSocket), "ask the daemon at the socket `PATH` (default "+defaultSocket+")")
	flags.BoolVar(&g.direct, "direct", false, "act without a daemon: localhost is not served")
	flags.StringVar(&g.netns, "netns", "", "work in this network namespace: a `NAME` of /run/netns or a path")
	flags.StringVar(&g.table, "table", engine.DefaultTable, "keep the mappings in the nftables table of this `NAME`")
	flags.BoolVar(&g.quiet, "quiet", false, "print nothing but errors and what was asked for")
	flags.BoolVar(&g.json, "json", false, "print JSON")
	flags.BoolVar(&g.ranges, "ranges", false, "with --json, print a range as one object, which has its \"last\" port")
	completeFlag(root, "netns", completeNetns)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	all := len(only) == 0
	if all {
		only = verbs()
	}
	root.CompletionOptions.DisableDefaultCmd = !all
	for _, v := range only {
		cmd := v.make(g)
		if cmd.GroupID = v.group; v.group != "" && !root.ContainsGroup(v.group) {
			root.AddGroup(&cobra.Group{ID: v.group, Title: v.group})
		}
		root.AddCommand(cmd)
	}
	if all {
		refuseUnknown(root)
	}
	return root
}

// refuseUnknown makes the verbs of cobra refuse arguments that they do not know. By themselves
// they print help and exit 0.
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

// logger is where this process logs. It is never nil.
func (g *global) logger() *slog.Logger {
	if g.quiet {
		return slog.New(slog.DiscardHandler)
	}
	if g.log != nil {
		return g.log
	}
	return slog.New(newLineHandler(g.stderr, slog.LevelInfo, false))
}

// annotationGlobals is the annotation of a command with the global flags that do something there.
// The others are refused, and not shown in its help.
const annotationGlobals = "globals"

// Sets of global flags, as the annotation has them.
const (
	toDaemon = "socket netns table direct quiet " // for commands of a daemon or of an engine in the process
	forJSON  = "json "                            // for commands that can print JSON
	forPorts = forJSON + "ranges "                // for those that print mappings
)

// offer names the global flags that do something with a command.
func offer(cmd *cobra.Command, globals string) *cobra.Command {
	cmd.Annotations = map[string]string{annotationGlobals: globals}
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
