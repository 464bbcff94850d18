// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import "github.com/nftnat/nftnat/engine"

// Change is one difference that `apply` made. Either part is absent where there was
// nothing before or is nothing after.
type Change struct {
	Old []Mapping `json:"old,omitempty"`
	New []Mapping `json:"new,omitempty"`
	// Was and Is say the same of a network or an endpoint, in words; then Old and New
	// are absent.
	Was string `json:"was,omitempty"`
	Is  string `json:"is,omitempty"`
}

// Changes are the documents of the changes.
func Changes(cs []engine.Change) []Change {
	docs := make([]Change, 0, len(cs))
	for _, c := range cs {
		doc := Change{Was: c.Was, Is: c.Is}
		if c.Old != (engine.Mapping{}) {
			doc.Old = expanded(c.Old)
		}
		if c.New != (engine.Mapping{}) {
			doc.New = expanded(c.New)
		}
		docs = append(docs, doc)
	}
	return docs
}

func expanded(m engine.Mapping) []Mapping {
	return Mappings(func(yield func(engine.Mapping) bool) { yield(m) })
}
