// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/alloc"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/daemon"
	"github.com/nftnat/nftnat/nat"
)

// The exit status, a contract with scripts.
const (
	exitDone         = 0
	exitFailed       = 1
	exitBadInput     = 2 // nothing was changed
	exitConflict     = 3 // the frontend or the table is in use
	exitNotFound     = 4
	exitNotPermitted = 5
)

// usageError is bad input that was noticed on the command line itself.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// shownError is the exit status of this program run again, which has said why itself.
type shownError int

func (e shownError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// usage makes what cobra says of the number of arguments a usageError.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{wrongArguments(cmd, args, err)}
		}
		return nil
	}
}

// wrongArguments says how the command is used, with an example.
func wrongArguments(cmd *cobra.Command, args []string, err error) error {
	if cmd.HasAvailableSubCommands() && len(args) != 0 {
		text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
		cmd.SuggestionsMinimumDistance = 2
		if len(args[0]) <= 3 { // two letters of three say nothing
			cmd.SuggestionsMinimumDistance = 1
		}
		if names := cmd.SuggestionsFor(args[0]); len(names) != 0 {
			text += `; is it "` + strings.Join(names, `" or "`) + `"?`
		}
		return errors.New(text)
	}
	if cmd.Parent() != nil && cmd.Parent().Name() == "completion" || cmd.Name() == "help" {
		return err
	}
	_, form, _ := strings.Cut(cmd.Use, " ")
	text := fmt.Sprintf("wrong number of arguments: use %q", strings.TrimSpace(cmd.CommandPath()+" "+form))
	example, _, _ := strings.Cut(strings.TrimSpace(cmd.Example), "\n")
	if example != "" {
		text += ", as in: " + example
	}
	return errors.New(text)
}

func exitStatus(err error) int {
	var (
		bad   usageError
		start *daemon.StartError
		shown shownError
	)
	switch {
	case errors.As(err, &shown):
		return int(shown)
	case errors.As(err, &start):
		return start.Status
	case errors.Is(err, fs.ErrPermission): // a file that may not be read is no bad input
		return exitNotPermitted
	case errors.As(err, &bad), errors.Is(err, nat.ErrInvalid):
		return exitBadInput
	case errors.Is(err, nat.ErrConflict), errors.Is(err, nat.ErrOwned), errors.Is(err, alloc.ErrExhausted):
		return exitConflict
	case errors.Is(err, nat.ErrNotFound):
		return exitNotFound
	}
	return exitFailed
}

// nameHolder is the text of an error. Where a daemon knows of a held port only which socket
// holds it, because it may not look into other processes, the text names the process if this
// command may.
func nameHolder(err error) string {
	text := err.Error()
	var held *nat.HeldError
	if !errors.As(err, &held) || held.PID != 0 {
		return text
	}
	named := *held
	if named.PID, named.Command = engine.ProcessOf(held.Inode); named.PID == 0 {
		return text
	}
	return strings.Replace(text, held.Error(), named.Error(), 1)
}
