// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// Version is the version of the ruleset. It is in the table's comment: a later version of
// this program converts the table, and an earlier one does not touch it.
const Version = 4

// versionPrefix begins the comment of every table of nftnat.
const versionPrefix = "nftnat schema "

// Comment returns the comment of a table of a version.
func Comment(version int) string { return versionPrefix + strconv.Itoa(version) }

// CheckComment reports whether this version may touch a table with the comment.
func CheckComment(table, comment string) error {
	number, ok := strings.CutPrefix(comment, versionPrefix)
	found, err := strconv.Atoi(number)
	switch {
	case !ok || err != nil || found < 1:
		return fmt.Errorf("open table %s: %w: its comment is %q", table, nat.ErrForeign, comment)
	case found > Version:
		return fmt.Errorf("open table %s: %w: it has schema %d, this version knows %d", table, nat.ErrNewer, found, Version)
	}
	return nil
}
