// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import "container/heap"

// timer is one deadline of a loop.
//
// Connections and flows of a proxy have the same time-out: a list in order of
// activity has the next to expire at its front, and one timer is set for that.
type timer struct {
	when   int64 // loop time, nanoseconds
	expire func()
	index  int // place in the heap plus one; 0: not armed
}

// timerHeap is a loop's timers, the earliest first.
type timerHeap []*timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].when < h[j].when }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i+1, j+1
}

// Push implements heap.Interface.
func (h *timerHeap) Push(x any) {
	t := x.(*timer)
	*h = append(*h, t)
	t.index = len(*h)
}

// Pop implements heap.Interface.
func (h *timerHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	t.index = 0
	return t
}

// arm sets t to expire at when, whether it was armed or not.
func (l *loop) arm(t *timer, when int64) {
	t.when = when
	if t.index == 0 {
		heap.Push(&l.timers, t)
	} else {
		heap.Fix(&l.timers, t.index-1)
	}
}

// disarm stops t; a timer that is not armed may be disarmed.
func (l *loop) disarm(t *timer) {
	if t.index != 0 {
		heap.Remove(&l.timers, t.index-1)
	}
}

// fireTimers expires what is due.
func (l *loop) fireTimers() {
	for len(l.timers) > 0 && l.timers[0].when <= l.now {
		heap.Pop(&l.timers).(*timer).expire()
	}
}
