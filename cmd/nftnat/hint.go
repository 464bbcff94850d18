// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/nftnat/nftnat/api"
)

// hintedError is an error of which it is known what the user can do about it.
type hintedError struct {
	error
	hint string
}

func (e hintedError) Unwrap() error { return e.error }

// hint says what can be done about an error, in parentheses after a space; it is empty
// if that is not known.
func hint(err error) string {
	var (
		hinted hintedError
		bad    usageError
	)
	switch {
	case errors.As(err, &hinted):
		return " (" + hinted.hint + ")"
	case exitStatus(err) == exitNotPermitted:
		return " (" + permissionHint(err) + ")"
	case errors.As(err, &bad):
		return ` (see "nftnat help")`
	}
	return ""
}

// permissionHint says which privilege an operation needs that was not permitted.
func permissionHint(err error) string {
	var (
		space   namespaceError
		refusal *api.Problem
		file    *fs.PathError
	)
	switch {
	case errors.As(err, &space):
		return "run it as root, or allow users to create user namespaces"
	case errors.As(err, &refusal): // it was the daemon that was not permitted
		return "the daemon has to run as root, or with CAP_NET_ADMIN and CAP_NET_BIND_SERVICE"
	case errors.As(err, &file) && !strings.HasPrefix(file.Path, "/proc/"):
		return "run it as root"
	}
	return "run it as root, or give it CAP_NET_ADMIN"
}

// unansweredHint says what to do about the owner of a table that does not answer where its
// daemon would.
func unansweredHint(socket string) string {
	return "it does not answer at " + printable(socket) + ": if that was removed, end the process, and the next command starts a daemon"
}

// socketHint says who may use a daemon's socket.
func socketHint(path string) string {
	const root = "run it as root"
	info, err := os.Stat(path)
	if err != nil { // its directory keeps others out
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
	return root + ", or as a member of the group " + group
}
