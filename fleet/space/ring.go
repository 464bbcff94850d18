// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package space

import (
	"cmp"
	"slices"
)

// window is among how many of the next free blocks a host chooses: hosts that acquire a block at the same
// time rarely want the same one.
const window = 32

// ring has which blocks of a pool are held, and in which order the others come: first those that nobody has had, by
// their numbers, then those that were given back, the first of them first.
type ring struct {
	size   uint64
	blocks map[uint64]block
}

// block is a block that has a key: somebody has, or had it.
type block struct {
	host     string // empty: it was given back
	nonce    string
	modified int64 // the revision of the key: since when that is so
}

func newRing(size uint64) *ring { return &ring{size: size, blocks: map[uint64]block{}} }

// next returns the next free blocks, at most [window], in order. Those in avoid are left out.
func (r *ring) next(avoid map[uint64]bool) (indices []uint64) {
	if uint64(len(r.blocks)) < r.size {
		for i := range r.size {
			if _, had := r.blocks[i]; !had && !avoid[i] {
				if indices = append(indices, i); len(indices) == window {
					return indices
				}
			}
		}
	}
	back := r.where(func(i uint64, b block) bool { return b.host == "" && !avoid[i] })
	return append(indices, back[:min(len(back), window-len(indices))]...)
}

// of returns the blocks of a host, the first acquired first.
func (r *ring) of(host string) []uint64 {
	return r.where(func(_ uint64, b block) bool { return b.host == host })
}

// where returns the blocks with a key of which f is true, by their revisions.
func (r *ring) where(f func(uint64, block) bool) (indices []uint64) {
	for i, b := range r.blocks {
		if f(i, b) {
			indices = append(indices, i)
		}
	}
	slices.SortFunc(indices, func(a, b uint64) int {
		return cmp.Or(cmp.Compare(r.blocks[a].modified, r.blocks[b].modified), cmp.Compare(a, b))
	})
	return indices
}

// held counts the blocks of each host.
func (r *ring) held() map[string]int {
	by := map[string]int{}
	for _, b := range r.blocks {
		if b.host != "" {
			by[b.host]++
		}
	}
	return by
}
