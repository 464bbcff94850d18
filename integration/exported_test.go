// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"slices"
	"strings"
)

// exportOf returns what export prints for lists.
func exportOf(lists string) string {
	return "# nftnat, complete with \"...\" as its last line\nversion: 1\n" + lists + "...\n"
}

// misused returns the message of a command with too few or too many arguments: its usage,
// with an example if there is one.
func misused(use, example string) string {
	if example != "" {
		example = ", as in: nftnat " + example
	}
	return `wrong number of arguments: use "nftnat ` + use + `"` + example + helpOf(use)
}

// helpOf returns the end of that message, which names the help.
func helpOf(line string) string {
	words := strings.Fields(line)
	if len(words) == 1 || !slices.Contains([]string{"network", "completion", "docker", "cni"}, words[0]) {
		return ` (see "nftnat ` + words[0] + ` --help")`
	}
	return ` (see "nftnat ` + words[0] + " " + words[1] + ` --help")`
}
