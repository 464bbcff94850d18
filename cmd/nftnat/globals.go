// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

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
