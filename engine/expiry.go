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

// expiries is a heap, the first to end on top: which mappings are over is known
// without a look at all the others.
type expiries []expiry

// Len, Less, Swap, Push and Pop are what container/heap asks for.

func (x expiries) Len() int { return len(x) }

func (x expiries) Less(i, j int) bool { return x[i].at < x[j].at }

func (x expiries) Swap(i, j int) { x[i], x[j] = x[j], x[i] }

// Push appends an expiry.
func (x *expiries) Push(v any) { *x = append(*x, v.(expiry)) }

// Pop takes the last out.
func (x *expiries) Pop() any {
	end := len(*x) - 1
	last := (*x)[end]
	*x = (*x)[:end]
	return last
}

// minExpiries is how many are not worth throwing away.
const minExpiries = 1024

// expect notes when a mapping ends. Leases that are renewed over and over leave an
// expiry each time; where most are such, all are noted anew.
func (e *Engine) expect(p port) {
	if p.expires == 0 {
		return
	}
	heap.Push(&e.expiries, expiry{p.expires, p.frontend})
	if e.expiries[0].frontend == p.frontend {
		e.wake()
	}
	if len(e.expiries) <= max(minExpiries, 2*e.mappings.len()) {
		return
	}
	e.expiries = e.expiries[:0]
	for p := range e.mappings.all {
		if p.expires != 0 {
			e.expiries = append(e.expiries, expiry{p.expires, p.frontend})
		}
	}
	heap.Init(&e.expiries)
}

// forget drops the mappings whose time is over: the kernel has dropped them by its
// own clock.
func (e *Engine) forget(now time.Time) {
	var over []port
	for ms := now.UnixMilli(); len(e.expiries) > 0 && e.expiries[0].at <= ms; {
		x := heap.Pop(&e.expiries).(expiry)
		if t, ok := e.mappings.get(x.frontend); ok && t.expires == x.at {
			e.remove(port{x.frontend, t})
			over = append(over, port{x.frontend, t})
		}
	}
	if len(over) != 0 {
		e.notify(EventExpired, collapsed(over)...)
	}
}
