// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
	"github.com/nftnat/nftnat/internal/printable"
	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/nat"
)

// walk is the explanation of one query.
type walk struct {
	*Snapshot
	ctx   context.Context //nolint:containedctx // of one call
	table string          // ours
	// found are the mappings that the packet may go by, and mapping is the one of this client.
	found   []nat.Mapping
	mapping nat.Mapping
	proto   uint8
	client  client
	guessed bool // the client stands for others, and has perhaps never asked
	// timeout is how long backends are waited for; zero: they are not asked.
	timeout time.Duration
	// pid is the process that has the proxies; zero: one by the name of ours.
	pid int
}

// way is one way that a packet may take. Where something cannot be known, a way forks.
type way struct {
	p     eval.Packet
	steps []Step
	may   []Cause // what cannot be known on it, in order
	stop  *Cause
	notes []string
	// answer is set once the packet is the answer.
	answer bool
	path   Path
	source netip.Addr // that the backend sees
	// in and out are the interfaces of the request.
	in, out int
	proxy   *host.Process // that sends for the client; nil: none, or it is not known
	r       *host.Route   // the last route
	proxies bool          // the packet is of the proxy's connection to the backend
	later   bool          // the packet is one that follows the answer
	trial   bool          // whether the host may ask the backend is found out
	// prerouted is set if a bridge has called the hook of prerouting, and switched if the packet then
	// leaves by the same bridge.
	prerouted, switched bool
	done                bool // it has come to its end on this host
	reroute             bool
	// narrow is why large packets are lost, if small ones pass.
	narrow *Cause
	// translated is the rule that gave the packet its destination, and untracked the last that kept it from
	// connection tracking.
	translated, untracked *rules.Rule
	zoned                 *rules.Rule // set a zone of connection tracking
	aged                  *rules.Rule // set the TTL
	// lost is set if it is not known where the packet goes, or not all ways were followed: what stops it
	// behind that is not certain.
	lost bool
	// gone counts the stages passed, to compare ways.
	gone int
}

// stage is a part of the way. It returns what becomes of a packet there.
type stage func(*way) []*way

// maxWays bounds how many ways are followed, since each thing that cannot be known may double them.
const maxWays = 64

// run takes ways through stages. Ways that have been stopped stay as they are.
func run(ways []*way, stages ...stage) []*way {
	for _, s := range stages {
		var next []*way
		for _, w := range ways {
			if w.stop != nil {
				next = append(next, w)
				continue
			}
			w.gone++
			next = append(next, s(w)...)
		}
		ways = next
		if len(ways) > maxWays {
			ways = ways[:maxWays]
			for _, w := range ways {
				w.lost = true
				w.maybe(Cause{Kind: KindUnread, Thing: "too many rules that cannot be known", What: "not all of what may become of the packet was followed"})
			}
		}
	}
	return ways
}

// certain is what stops all ways; nil: one passes.
func certain(ways []*way) (stop *Cause) {
	for _, w := range ways {
		if w.stop == nil || w.lost {
			return nil
		}
		if stop == nil {
			stop = w.stop
		}
	}
	return stop
}

// fork returns a copy of a way, with packet p.
func (w *way) fork(p eval.Packet) *way {
	c := *w
	c.p = p
	c.steps, c.may, c.notes = slices.Clip(w.steps), slices.Clip(w.may), slices.Clip(w.notes)
	return &c
}

func (w *way) on() []*way { return []*way{w} }

// step notes a step.
func (w *way) step(where, format string, args ...any) {
	text := format
	if len(args) > 0 {
		text = fmt.Sprintf(format, args...)
	}
	w.steps = append(w.steps, Step{Where: where, Text: text, Answer: w.answer})
}

// halt ends a way.
func (w *way) halt(c Cause) []*way {
	c.Answer, c.Certain = w.answer, true
	w.stop = &c
	return w.on()
}

// maybe notes what may stop the packet.
func (w *way) maybe(c Cause) {
	c.Answer, c.Certain = w.answer, false
	for certain, may := range map[string]string{"drops ": "may drop ", "rejects ": "may reject ", "takes ": "may take "} {
		if rest, ok := strings.CutPrefix(c.What, certain); ok {
			c.What = may + rest
		}
	}
	if !slices.Contains(w.may, c) {
		w.may = append(w.may, c)
	}
}

func (w *way) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(w.notes, text) {
		w.notes = append(w.notes, text)
	}
}

// unread notes that something on the way could not be read.
func (w *way) unread(what string, err error) {
	w.maybe(Cause{Kind: KindUnread, Thing: what, What: "cannot be read: " + printable.Line(err.Error())})
}

// conclude makes the report of what became of all ways.
func conclude(ways []*way, r *Report) {
	var passed, stopped []*way
	for _, w := range ways {
		if w.stop == nil || w.lost {
			passed = append(passed, w)
		} else {
			stopped = append(stopped, w)
		}
	}
	add := func(c Cause) {
		if r.Cause == nil {
			r.Cause = &c
			return
		}
		same := func(o Cause) bool {
			return o.Kind == c.Kind && o.Thing == c.Thing && (o.Answer == c.Answer || c.Kind == KindUnread)
		}
		if !same(*r.Cause) && !slices.ContainsFunc(r.Others, same) {
			r.Others = append(r.Others, c)
		}
	}
	var shown *way
	if len(passed) > 0 {
		shown = passed[0]
		for _, w := range ways {
			for _, c := range w.may {
				add(c)
			}
			if w.stop != nil {
				c := *w.stop
				c.Certain = false
				add(c)
			}
		}
		r.Verdict = Passes
		if r.Cause != nil {
			r.Verdict = Uncertain
		}
	} else {
		// What stops the way that went furthest stops it for certain: the others would have been
		// stopped before.
		shown = slices.MaxFunc(stopped, func(a, b *way) int { return a.gone - b.gone })
		r.Verdict = Stopped
		r.Cause = shown.stop
		for _, w := range ways {
			for _, c := range w.may {
				add(c)
			}
			if w != shown {
				c := *w.stop
				c.Certain = false
				add(c)
			}
		}
	}
	r.Steps, r.Path, r.Notes = shown.steps, shown.path, append(r.Notes, shown.notes...)
	r.Source = shown.source
}
