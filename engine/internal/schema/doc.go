// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package schema is the table of an engine as nftables sees it: its rules ([Ruleset]), and
// the elements of its maps and sets, which are all that is ever changed. It encodes
// published ports, networks, leases, segments and hairpin records as elements, and decodes
// what a table holds ([Classify]).
//
// The package asks no kernel and keeps no state.
package schema
