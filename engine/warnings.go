// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import "fmt"

// warnings returns what keeps published ports from working, a line each.
func (e *core) warnings() (lines []string) {
	routes, err := e.routesToBackends()
	if err != nil {
		lines = append(lines, err.Error())
	}
	missing, err := e.forwarding.Missing(forwardingNeeds(e.backends, routes, e.ipam.Networks()))
	if err != nil {
		lines = append(lines, err.Error())
	}
	for _, s := range missing {
		lines = append(lines, fmt.Sprintf("forwarding is off, and what it keeps back does not reach backends: %s", s))
	}
	return append(lines, e.absentWarnings()...)
}
