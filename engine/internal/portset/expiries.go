// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"container/heap"
	"time"
)

// expiry is when a mapping ends, or was to end before it was changed.
type expiry struct {
	at       int64 // milliseconds since 1970
	frontend Frontend
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

// Expiries tell which mappings are over without a look at all the others. The zero value
// has none.
type Expiries struct{ heap expiryHeap }

// minExpiries is how many are not worth throwing away.
const minExpiries = 1024

// Add notes when a port of the set ends, and reports whether none ends sooner. Leases that
// are renewed leave an expiry each time; where most are stale, all are noted anew.
func (x *Expiries) Add(p Port, all *Set) (first bool) {
	if p.Expires == 0 {
		return false
	}
	heap.Push(&x.heap, expiry{p.Expires, p.Frontend})
	first = x.heap[0].frontend == p.Frontend
	if len(x.heap) <= max(minExpiries, 2*all.Len()) {
		return first
	}
	x.heap = x.heap[:0]
	for p := range all.All {
		if p.Expires != 0 {
			x.heap = append(x.heap, expiry{p.Expires, p.Frontend})
		}
	}
	heap.Init(&x.heap)
	return first
}

// Next returns when the first port ends, or was to end.
func (x *Expiries) Next() (at time.Time, ok bool) {
	if len(x.heap) == 0 {
		return time.Time{}, false
	}
	return time.UnixMilli(x.heap[0].at), true
}

// Pop returns a port of the set that is over. The caller takes it out of the registry.
func (x *Expiries) Pop(now time.Time, all *Set) (p Port, ok bool) {
	for ms := now.UnixMilli(); len(x.heap) > 0 && x.heap[0].at <= ms; {
		first := heap.Pop(&x.heap).(expiry)
		if t, ok := all.Get(first.frontend); ok && t.Expires == first.at {
			return Port{first.frontend, t}, true
		}
	}
	return Port{}, false
}
