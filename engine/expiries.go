// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"container/heap"
	"time"
)

// expiry is when a mapping ends, or was to end before it was changed.
type expiry struct {
	at       int64 // milliseconds since 1970
	frontend frontend
}

// expiryHeap has the first to end on top.
type expiryHeap []expiry

// Len, Less, Swap, Push and Pop are what container/heap asks for.

func (x expiryHeap) Len() int { return len(x) }

func (x expiryHeap) Less(i, j int) bool { return x[i].at < x[j].at }

func (x expiryHeap) Swap(i, j int) { x[i], x[j] = x[j], x[i] }

// Push appends an expiry.
func (x *expiryHeap) Push(v any) { *x = append(*x, v.(expiry)) }

// Pop removes the last.
func (x *expiryHeap) Pop() any {
	end := len(*x) - 1
	last := (*x)[end]
	*x = (*x)[:end]
	return last
}

// expiries tell which mappings are over without a look at all the others. The zero value
// has none.
type expiries struct{ heap expiryHeap }

// minExpiries is how many are not worth throwing away.
const minExpiries = 1024

// add notes when a port of the registry ends, and reports whether none ends sooner. Leases that
// are renewed leave an expiry each time; where most are stale, all are noted anew.
func (x *expiries) add(p port, all *registry) (first bool) {
	if p.expires == 0 {
		return false
	}
	heap.Push(&x.heap, expiry{p.expires, p.frontend})
	first = x.heap[0].frontend == p.frontend
	if len(x.heap) <= max(minExpiries, 2*all.len()) {
		return first
	}
	x.heap = x.heap[:0]
	for p := range all.all {
		if p.expires != 0 {
			x.heap = append(x.heap, expiry{p.expires, p.frontend})
		}
	}
	heap.Init(&x.heap)
	return first
}

// next returns when the first port ends, or was to end.
func (x *expiries) next() (at time.Time, ok bool) {
	if len(x.heap) == 0 {
		return time.Time{}, false
	}
	return time.UnixMilli(x.heap[0].at), true
}

// pop returns a port of the registry that is over. The caller takes it out of the registry.
func (x *expiries) pop(now time.Time, all *registry) (p port, ok bool) {
	for ms := now.UnixMilli(); len(x.heap) > 0 && x.heap[0].at <= ms; {
		first := heap.Pop(&x.heap).(expiry)
		if t, ok := all.get(first.frontend); ok && t.expires == first.at {
			return port{first.frontend, t}, true
		}
	}
	return port{}, false
}
