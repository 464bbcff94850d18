// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"slices"
	"strconv"
	"time"
)

const (
	// slots are how many samples the plot has, and slotTime what each of them is of: an hour in all.
	slots    = 120
	slotTime = 30 * time.Second
)

// sample is how many TCP connections and UDP flows there were: the most in its slot.
type sample struct{ tcp, udp int }

// history are the samples of the last hour.
type history struct {
	last int64 // the number of the newest slot, since 1970
	ring [slots]sample
	have [slots]bool
}

// add takes a sample at a time. A clock that was set back begins anew.
func (h *history) add(at time.Time, s sample) {
	slot := at.UnixNano() / int64(slotTime)
	if slot < h.last {
		*h = history{}
	}
	for n := max(h.last+1, slot-slots+1); n <= slot; n++ {
		h.ring[n%slots], h.have[n%slots] = sample{}, false
	}
	h.last = slot
	i := slot % slots
	h.ring[i] = sample{max(h.ring[i].tcp, s.tcp), max(h.ring[i].udp, s.udp)}
	h.have[i] = true
}

// samples returns those that there are, the oldest first, each with how many slots ago it was.
func (h *history) samples() (all []aged) {
	for ago := slots - 1; ago >= 0; ago-- {
		if n := h.last - int64(ago); n >= 0 && h.have[n%slots] {
			all = append(all, aged{h.ring[n%slots], ago})
		}
	}
	return all
}

// aged is a sample of some slots ago.
type aged struct {
	sample
	ago int
}

// Size of the plot, in units of its own.
const (
	plotWidth  = 4 * (slots - 1)
	plotHeight = 100
)

// plot writes the samples as two lines. A line of words says the same to who does not see it.
func (w *writer) plot(all []aged, now sample) {
	top := sample{}
	for _, s := range all {
		top = sample{max(top.tcp, s.tcp), max(top.udp, s.udp)}
	}
	most := max(top.tcp, top.udp, 4)
	w.raw(`<figure><svg viewBox="0 0 ` + strconv.Itoa(plotWidth) + ` ` + strconv.Itoa(plotHeight) + `" preserveAspectRatio="none" role="img" aria-label="`)
	w.raw("In the last hour at most ")
	w.count(top.tcp, "TCP connection")
	w.raw(" and ")
	w.count(top.udp, "UDP flow")
	w.raw(" at a time; now ")
	w.number(int64(now.tcp))
	w.raw(" and ")
	w.number(int64(now.udp))
	w.raw(`"><path class="grid" d="M0 1H476M0 50H476M0 99H476"/>`)
	w.line("udp", all, most, func(s sample) int { return s.udp })
	w.line("tcp", all, most, func(s sample) int { return s.tcp })
	w.raw(`</svg><div class="axis" aria-hidden="true"><span>1 hour ago</span><span>top line: `)
	w.number(int64(most))
	w.raw(`</span><span>now</span></div><figcaption><span class="key tcp">`)
	w.count(now.tcp, "TCP connection")
	w.raw(`</span> <span class="key udp">`)
	w.count(now.udp, "UDP flow")
	w.raw(`</span> <span class="dim">at most `)
	w.number(int64(top.tcp))
	w.raw(" and ")
	w.number(int64(top.udp))
	w.raw(` in the last hour</span></figcaption></figure>`)
}

// line writes samples as a path, with a hole where there are none.
func (w *writer) line(class string, all []aged, most int, of func(sample) int) {
	w.raw(`<path class="` + class + `" d="`)
	for i, s := range all {
		x, y := plotWidth-4*s.ago, plotHeight-1-of(s.sample)*(plotHeight-2)/most
		switch {
		case i > 0 && all[i-1].ago == s.ago+1:
			w.raw("L")
		case i+1 < len(all) && all[i+1].ago == s.ago-1:
			w.raw("M")
		default: // alone
			w.raw("M" + strconv.Itoa(max(0, x-4)) + " " + strconv.Itoa(y) + "L")
		}
		w.raw(strconv.Itoa(x) + " " + strconv.Itoa(y))
	}
	w.raw(`"/>`)
}

// numbers returns the samples of one kind, for programs; -1: there is none.
func (h *history) numbers(of func(sample) int) []int {
	all := slices.Repeat([]int{-1}, slots)
	for _, s := range h.samples() {
		all[slots-1-s.ago] = of(s.sample)
	}
	return all
}
