// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import "github.com/nftnat/nftnat/nat"

// Change is one difference that `apply` made. Either part is absent where there was
// nothing before or is nothing after.
type Change struct {
	Old []Mapping `json:"old,omitempty"`
	New []Mapping `json:"new,omitempty"`
	// Before and After say the same of a network or an endpoint, in words; then Old and
	// New are absent.
	Before string `json:"was,omitempty"`
	After  string `json:"is,omitempty"`
}

// Changes are the documents of the changes.
func Changes(cs []nat.Change) []Change {
	docs := make([]Change, 0, len(cs))
	for _, c := range cs {
		doc := Change{Before: c.Before, After: c.After}
		if c.Old != (nat.Mapping{}) {
			doc.Old = Mappings([]nat.Mapping{c.Old})
		}
		if c.New != (nat.Mapping{}) {
			doc.New = Mappings([]nat.Mapping{c.New})
		}
		docs = append(docs, doc)
	}
	return docs
}
