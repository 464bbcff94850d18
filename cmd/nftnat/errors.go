// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/daemon"
	"github.com/nftnat/nftnat/internal/printable"
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

// usage makes cobra's error about the number of arguments a usageError.
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
	case errors.Is(err, nat.ErrConflict), errors.Is(err, nat.ErrOwned), errors.Is(err, nat.ErrExhausted):
		return exitConflict
	case errors.Is(err, nat.ErrNotFound):
		return exitNotFound
	}
	return exitFailed
}

// nameHolder is the text of an error. Where a daemon knows of a held port only which socket
// holds it, because it may not look into other processes, the text names the process if this
// command may. netNS is the path of the namespace in which the command works, if it was given.
func nameHolder(netNS string, err error) string {
	text := err.Error()
	var held *nat.HeldError
	if !errors.As(err, &held) || held.PID != 0 {
		return text
	}
	named := *held
	_ = engine.NameHolder(netNS, &named) // the text then says what is known
	return strings.Replace(text, held.Error(), named.Error(), 1)
}

// hintedError is an error with a hint of what the user can do about it.
type hintedError struct {
	error
	hint string
}

func (e hintedError) Unwrap() error { return e.error }

// hint says what the user can do about an error of a command, in parentheses after a space; it is
// empty if that is not known.
func hint(cmd *cobra.Command, err error) string {
	var (
		hinted hintedError
		bad    usageError
		file   *fs.PathError
	)
	switch {
	case errors.As(err, &hinted):
		return " (" + hinted.hint + ")"
	case exitStatus(err) == exitNotPermitted:
		return " (" + permissionHint(err) + ")"
	case errors.As(err, &bad) && !errors.As(err, &file): // no help says which files there are
		return fmt.Sprintf(" (see %q)", helpLine(cmd))
	}
	return ""
}

// helpLine is the command line that prints the help of a command.
func helpLine(cmd *cobra.Command) string {
	if !cmd.HasParent() || cmd.Name() == "help" {
		return cmd.Root().Name() + " help"
	}
	return cmd.CommandPath() + " --help"
}

// permissionHint says which privilege is missing.
func permissionHint(err error) string {
	var (
		space   namespaceError
		refusal *api.Problem
		file    *fs.PathError
	)
	switch {
	case errors.As(err, &space):
		return "run it as root, or allow users to create user namespaces"
	case errors.As(err, &refusal): // the daemon lacks the privilege
		return "the daemon has to run as root, or with CAP_NET_ADMIN and CAP_NET_BIND_SERVICE"
	case errors.Is(err, engine.ErrNoGroup):
		return "run it as root, or give it CAP_SYS_ADMIN; or mount cgroup2 at /sys/fs/cgroup, and give it CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
	case errors.Is(err, engine.ErrLoopback):
		return "run it as root, or give it CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
	case errors.As(err, &file) && !strings.HasPrefix(file.Path, "/proc/"):
		return "run it as root"
	}
	return "run it as root, or give it CAP_NET_ADMIN"
}

// unansweredHint says what to do if the owner of the table does not answer at the daemon's socket.
func unansweredHint(socket string) string {
	return "it does not answer at " + printable.Text(socket) + ": if that was removed, end the process, and the next command starts a daemon"
}

// socketHint says who may use a daemon's socket.
func socketHint(path string) string {
	const root = "run it as root"
	info, err := os.Stat(path)
	if err != nil { // the directory cannot be searched
		info, err = os.Stat(filepath.Dir(path))
	}
	if err != nil {
		return root
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Gid == 0 {
		return root
	}
	group := strconv.Itoa(int(stat.Gid))
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	if awaitsLogin(stat.Gid) {
		return "log in again: this session is older than your membership in the group " + group
	}
	return root + ", or as a member of the group " + group
}

// awaitsLogin reports whether the user of this process is a member of a group that the process does
// not have. A process gets its groups when its user logs in.
func awaitsLogin(gid uint32) bool {
	own, err := os.Getgroups()
	if err != nil || slices.Contains(own, int(gid)) {
		return false
	}
	u, err := user.Current()
	if err != nil {
		return false
	}
	groups, err := u.GroupIds()
	return err == nil && slices.Contains(groups, strconv.FormatUint(uint64(gid), 10))
}
