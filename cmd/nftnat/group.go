// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// ownGroup leaves a socket the group of the process.
const ownGroup = -1

// groupID is the number of a group that is given by name or number; none: ownGroup.
func groupID(name string) (int, error) {
	if name == "" {
		return ownGroup, nil
	}
	number := name
	group, err := user.LookupGroup(name)
	switch {
	case err == nil:
		number = group.Gid
	case !errors.As(err, new(user.UnknownGroupError)):
		return 0, fmt.Errorf("look up group %s: %w", name, err)
	}
	// The last number is that which chown(2) takes for none.
	id, err := strconv.ParseUint(number, 10, 32)
	if err != nil || id == math.MaxUint32 {
		return 0, usageError{fmt.Errorf("--group %s: there is no such group", name)}
	}
	return int(id), nil
}

// unreachable reports whether a directory keeps the members of a group from the socket
// in it: one that was there before has the group that it had.
func unreachable(socket string, group int) bool {
	info, err := os.Stat(filepath.Dir(socket))
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	mine := ok && int(stat.Gid) == group && info.Mode()&0o010 != 0
	return !mine && info.Mode()&0o001 == 0
}
