// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"io"
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// manyLines is from how many lines on Scan yields mappings.
const manyLines = 4096

// Scan is [Decode] of a file that may have very many mappings. If they are in the order of their
// ports, with an item a line, and there is no endpoint, they are not in the state but are read
// again whenever they are ranged over: 60,000 mappings take 9 MB.
func Scan(r io.Reader, name string) (nat.State, nat.Mappings, error) {
	file, err := readAll(r, name)
	if err != nil {
		return nat.State{}, nat.Mappings{}, err
	}
	if s, ms, ok := scan(strings.TrimPrefix(file, byteOrderMark)); ok {
		return s, ms, nil
	}
	s, err := decode(file, name)
	return s.State, nat.Mappings{}, err
}

// scan reads a file once to see whether all is right. ok is false if Decode is to read it.
func scan(file string) (s nat.State, ms nat.Mappings, ok bool) {
	if strings.Count(file, "\n") < manyLines || len(file) > maxYAML {
		return s, ms, false
	}
	if _, fault := readMarks(file); fault != nil {
		return s, ms, false
	}
	var proto nat.Proto
	last := 0 // port of the mapping before
	d := document{size: len(file), pass: func(m *nat.Mapping) bool {
		if m.Proto != proto {
			if m.Proto < proto {
				return false
			}
			proto, last = m.Proto, 0
		}
		first := int(m.Frontend.Port())
		if first <= last || m.Validate() != nil {
			return false // perhaps two overlap
		}
		last = first + int(m.More)
		ms.Len++
		return true
	}}
	if !d.lines(file) || len(d.state.Endpoints) != 0 || ms.Len == 0 {
		return s, nat.Mappings{}, false
	}
	ms.All = func(yield func(nat.Mapping) bool) {
		again := document{size: len(file), pass: func(m *nat.Mapping) bool { return yield(*m) }}
		_ = again.lines(file) // it is false if no more are wanted
	}
	return d.state, ms, true
}
