// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"github.com/nftnat/nftnat/nat"
)

// Change is one difference that `apply` made. Old is absent for an addition, New for a
// removal.
type Change struct {
	Old []Mapping `json:"old,omitempty"`
	New []Mapping `json:"new,omitempty"`
	// Before and After are the same for a network or an endpoint, in words; then Old and New
	// are absent.
	Before string `json:"was,omitempty"`
	After  string `json:"is,omitempty"`
}

// Changes are the documents of the changes, ranges expanded.
func Changes(cs []nat.Change) []Change { return changeDocs(cs, false) }

// RangeChanges are the documents of the changes, each range as one.
func RangeChanges(cs []nat.Change) []Change { return changeDocs(cs, true) }

func changeDocs(cs []nat.Change, ranges bool) []Change {
	docs := make([]Change, 0, len(cs))
	for _, c := range cs {
		doc := Change{Before: c.Before, After: c.After}
		if c.Old != (nat.Mapping{}) {
			doc.Old = mappingDocs([]nat.Mapping{c.Old}, ranges)
		}
		if c.New != (nat.Mapping{}) {
			doc.New = mappingDocs([]nat.Mapping{c.New}, ranges)
		}
		docs = append(docs, doc)
	}
	return docs
}

// change returns the change that the document describes.
func (c *Change) change() (nat.Change, error) {
	before, err := whole(c.Old)
	if err != nil {
		return nat.Change{}, err
	}
	after, err := whole(c.New)
	return nat.Change{Old: before, New: after, Before: c.Before, After: c.After}, err
}
