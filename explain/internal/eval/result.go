// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import "github.com/nftnat/nftnat/internal/rules"

// Codes of results beside the kernel's.
const (
	codeStolen   = 2 // NF_STOLEN
	codeQueue    = 3 // NF_QUEUE
	codeAccept   = 1
	codeDrop     = 0
	codeContinue = -1
	codeBreak    = -2
	codeJump     = -3
	codeGoto     = -4
	codeReturn   = -5
	codeReject   = 100
	codeUnclear  = 101
)

// result is what may come of a rule or chain.
type result struct {
	code    int32
	state   *state
	by      *rules.Rule
	chain   *rules.Chain
	because []Unknown // never appended to in place
	steps   *steps
}

func (r result) end() End {
	switch r.code {
	case codeAccept:
		return Accepted
	case codeDrop:
		return Dropped
	case codeReject:
		return Rejected
	case codeQueue:
		return Queued
	case codeStolen:
		return Stolen
	}
	return Unclear
}

// goesOn reports whether what follows sees the packet.
func (r result) goesOn() bool {
	return r.code == codeContinue || r.code == codeAccept || r.code == codeReturn
}

// same reports whether two results make no difference.
func (r result) same(o result) bool {
	return r.code == o.code && (!r.goesOn() || r.state == o.state || *r.state == *o.state)
}

// difference is what of a result makes a difference.
type difference struct {
	code  int32
	state state
}

func (r result) difference() difference {
	if !r.goesOn() {
		return difference{code: r.code}
	}
	return difference{r.code, *r.state}
}

// steps is a list of steps, the last one first.
type steps struct {
	before *steps
	step   Step
}

func (s *steps) list() (list []Step) {
	n := 0
	for x := s; x != nil; x = x.before {
		n++
	}
	list = make([]Step, n)
	for x := s; x != nil; x = x.before {
		n--
		list[n] = x.step
	}
	return list
}

// then appends steps.
func (s *steps) then(more *steps) *steps {
	if more == nil {
		return s
	}
	if s == nil {
		return more
	}
	return &steps{s.then(more.before), more.step}
}

// join joins reasons.
func join(a, b []Unknown) []Unknown {
	if len(b) == 0 {
		return a
	}
	if len(a) == 0 {
		return b
	}
	all := append([]Unknown(nil), a...)
next:
	for _, u := range b {
		for _, v := range all {
			if u == v {
				continue next
			}
		}
		if len(all) < maxReason {
			all = append(all, u)
		}
	}
	return all
}

// merge makes one of results that make no difference. Of their rules the last one is kept: it decides if
// what is not known turns out not to match. One result that is left depends on nothing, unless it is
// itself not clear.
func merge(list []result) []result {
	out := list[:0]
	var at map[difference]int // of long lists
	if len(list) > 8 {
		at = make(map[difference]int, len(list))
	}
	for _, r := range list {
		i := 0
		if at == nil {
			for i < len(out) && !out[i].same(r) {
				i++
			}
		} else if n, ok := at[r.difference()]; ok {
			i = n
		} else {
			i = len(out)
			at[r.difference()] = i
		}
		if i == len(out) {
			out = append(out, r)
			continue
		}
		r.because = join(out[i].because, r.because)
		out[i] = r
	}
	if len(out) == 1 && out[0].code != codeUnclear {
		out[0].because = nil
	}
	return out
}

// after puts results behind what led to them.
func after(before result, list []result) []result {
	if len(before.because) == 0 && before.steps == nil {
		return list
	}
	out := make([]result, len(list))
	for i, r := range list {
		r.because = join(before.because, r.because)
		r.steps = before.steps.then(r.steps)
		out[i] = r
	}
	return out
}

// mergeLive makes one of ways that make no difference. Unlike merge it leaves the reasons, because other
// ways may have ended.
func mergeLive(list []result) []result {
	because := list[0].because
	merged := merge(list)
	if len(merged) == 1 {
		for _, w := range list {
			because = join(because, w.because)
		}
		merged[0].because = because
	}
	return merged
}
