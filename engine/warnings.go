// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

// warnings returns what keeps published ports from working, a line each.
func (e *core) warnings() (lines []string) {
	return lines
}
