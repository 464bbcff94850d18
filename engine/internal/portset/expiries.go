// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"container/heap"
	"time"
)

// expiry is when a port or a range expires, or would have before it was changed.
type expiry struct {
	at       int64 // milliseconds since 1970
	frontend Frontend
	more     uint16
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

// Expiries finds expired ports without visiting the others. The zero value is empty.
type Expiries struct{ heap expiryHeap }

// minExpiries is the number of expiries that are kept even if most are stale.
const minExpiries = 1024

// Add adds the expiry of a port of the set, and reports whether it is the first. Each
// renewal of a lease leaves a stale expiry; when most are stale, the heap is built again.
func (x *Expiries) Add(p Port, all *Set) (first bool) {
	if p.Expires == 0 {
		return false
	}
	heap.Push(&x.heap, expiry{p.Expires, p.Frontend, p.More})
	first = x.heap[0].frontend == p.Frontend
	if len(x.heap) <= max(minExpiries, 2*all.Len()) {
		return first
	}
	x.heap = x.heap[:0]
	for p := range all.All {
		if p.Expires != 0 {
			x.heap = append(x.heap, expiry{p.Expires, p.Frontend, p.More})
		}
	}
	heap.Init(&x.heap)
	return first
}

// Next returns the first expiry, which may be stale.
func (x *Expiries) Next() (at time.Time, ok bool) {
	if len(x.heap) == 0 {
		return time.Time{}, false
	}
	return time.UnixMilli(x.heap[0].at), true
}

// Pop removes an expired port from the set, or an expired range, and returns it. over is what of
// a range was served. ok is false if nothing has expired.
func (x *Expiries) Pop(now time.Time, all *Set) (whole, over []Port, ok bool) {
	if len(x.heap) == 0 || x.heap[0].at > now.UnixMilli() {
		return nil, nil, false
	}
	first := heap.Pop(&x.heap).(expiry)
	whole, over = all.expire(first.frontend, first.more, first.at)
	return whole, over, true
}
