// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import "fmt"

// Change is one difference between the published state and the one to apply.
type Change struct {
	// Old is the mapping that is removed or replaced. Zero: none.
	Old Mapping
	// New is the mapping that is added. Zero: none.
	New Mapping
	// Before and After say the same of a network or an endpoint, in words; then Old and New
	// are zero. Empty: it was not, or is not, there.
	Before, After string
}

// String returns a line for the change: "+ new", "- old", or "~ old => new".
func (c Change) String() string {
	before, after := c.Before, c.After
	if c.Old != (Mapping{}) {
		before = c.Old.String()
	}
	if c.New != (Mapping{}) {
		after = c.New.String()
	}
	switch {
	case before == "":
		return "+ " + after
	case after == "":
		return "- " + before
	}
	return fmt.Sprintf("~ %s => %s", before, after)
}
