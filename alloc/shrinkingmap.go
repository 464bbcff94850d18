// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import "maps"

// keepMap is the number of entries up to which a map is not made smaller.
const keepMap = 64

// A shrinkingMap is a map that gives memory back: a Go map keeps room for the
// most entries it ever had. The zero map is empty and ready to use.
type shrinkingMap[K comparable, V any] struct {
	m    map[K]V
	most int // entries since m was made
}

func (s *shrinkingMap[K, V]) get(k K) (V, bool) {
	v, ok := s.m[k]
	return v, ok
}

func (s *shrinkingMap[K, V]) put(k K, v V) {
	if s.m == nil {
		s.m = make(map[K]V)
	}
	s.m[k] = v
	s.most = max(s.most, len(s.m))
}

// drop deletes an entry. A map that is three quarters empty is copied to a new
// one: three entries were deleted for each that is copied.
func (s *shrinkingMap[K, V]) drop(k K) {
	delete(s.m, k)
	if s.most <= keepMap || len(s.m) > s.most/4 {
		return
	}
	m := make(map[K]V, len(s.m))
	maps.Copy(m, s.m)
	s.m, s.most = m, len(m)
}
