// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

// exportOf is what export prints of lists.
func exportOf(lists string) string {
	return "# nftnat, complete with \"...\" as its last line\nversion: 1\n" + lists + "...\n"
}
