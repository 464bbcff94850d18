// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// killSteps are the steps of Options.Trace at which processes are killed by name. Other
// steps are hit by their number, so a new step need not be in the list; but each step of
// the list has to be hit in a long test.
func killSteps() []string {
	return []string{
		"adopt", "repair", "ended", "reserve", "bind", "forward", "prepare", "commit", "save", "flows", "open", "settle", "clean", "done",
	}
}

// isOfRanges reports whether only some changes of ranges have a step.
func isOfRanges(step string) bool {
	return slices.Contains([]string{"prepare", "settle", "clean"}, step)
}

// How many processes are killed in a long test, and the first seed, unless the environment
// says otherwise; and how many are killed in one set of namespaces.
const (
	envKills, defaultKills = "NFTNAT_KILLS", 300
	envSeed, defaultSeed   = "NFTNAT_SEED", 2013
	killsPerRun            = 75
)

// coverage counts at which steps processes were killed.
type coverage struct {
	mu      sync.Mutex
	steps   map[string]int
	damages int // how often there was something to repair
}

func (c *coverage) note(step string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.steps[step]++
}

// Processes that make random operations are killed: at a named step, at their n-th step,
// or at any instant. The next process finds all that was acknowledged and nothing else,
// and an operation that was not acknowledged is wholly done or undone: in the kernel, in
// sockets and leases, and in the file.
//
// NFTNAT_KILLS is the number of kills, NFTNAT_SEED the first seed.
func TestRandomKills(t *testing.T) {
	kills := labtest.RoundsOf(t, envKills, "kills", 20, defaultKills)
	seed := labtest.Number(t, envSeed, defaultSeed)
	covered := coverage{steps: map[string]int{}}
	t.Run("kills", func(t *testing.T) {
		for first := 0; first < kills; first += killsPerRun {
			t.Run(fmt.Sprintf("seed %d", seed+first), func(t *testing.T) {
				t.Parallel()
				w := newKillRun(t, uint64(seed+first), &covered)
				for i := range min(killsPerRun, kills-first) {
					w.round(i)
				}
			})
		}
	})
	t.Logf("killed at: %v", covered.steps)
	if kills < defaultKills || t.Failed() {
		return
	}
	for _, step := range killSteps() {
		if step != "repair" || covered.damages != 0 {
			require.NotZero(t, covered.steps[step], "nobody was killed at step %s", step)
		}
	}
}

// killRun is a topology whose processes are killed, and a second one with an engine that
// is given the acknowledged state.
type killRun struct {
	*testing.T
	chooser
	top, mirrorTop *lab.Topology
	mirror         *engine.Engine
	model          model
	file           string // the state file
	covered        *coverage
	what           string   // describes the round, for messages
	notes          []string // elements of the maps of what has ended
	asked          []inquiry
	compared       uint32 // the generation at which the table was compared last
	cut            bool   // the last operation was not acknowledged
}

func newKillRun(t *testing.T, seed uint64, covered *coverage) *killRun {
	t.Helper()
	parts := lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2}
	w := &killRun{
		T: t, chooser: chooser{rand.New(rand.NewPCG(seed, 1))}, covered: covered,
		top: newTopology(t, parts), mirrorTop: newTopology(t, parts), file: filepath.Join(t.TempDir(), "state.yaml"),
	}
	// Clients' source ports are none of those that are published.
	require.NoError(t, w.top.Host.Sysctl("net.ipv4.ip_local_port_range", "20000 30000"))
	w.mirror = open(t, w.mirrorTop.Host, engine.Options{})
	// An empty table differs from none. There is one from here on.
	for _, ns := range []*lab.NS{w.top.Host, w.mirrorTop.Host} {
		e := w.mirror
		if ns == w.top.Host {
			e = open(t, ns, engine.Options{})
		}
		publish(t, e, "1->172.30.0.2:1")
		unpublish(t, e, "1->172.30.0.2:1")
		if e != w.mirror {
			require.NoError(t, e.Close())
		}
	}
	served := []int{}
	for port := range backendPorts {
		served = append(served, firstBackendPort+port)
	}
	for port := range frontendPorts { // of ranges
		served = append(served, firstFrontendPort+port)
	}
	for _, backend := range []*lab.NS{w.top.Backend1, w.top.Backend2} {
		for _, port := range served {
			for _, network := range []string{"tcp", "udp"} {
				labtest.Echo(t, backend, network, fmt.Sprintf("%s:%d", backend, port), fmt.Sprint(":", port))
			}
		}
	}
	return w
}

// round starts a process, checks what it has adopted, lets it work until it is killed, and
// checks what is there then.
func (w *killRun) round(i int) {
	w.Helper()
	damaged := w.IntN(8) == 0 && w.damage()
	v := w.start(i, damaged)
	if ready := v.await(func(n notice) bool { return n.Ready != nil }); ready != nil {
		v.adopted = true
		w.requireEqual(modelOf(*ready.Ready), "adopted")
		w.requireFile()
		w.requireTable(nil, nil)
		if damaged {
			w.requireRules()
		}
		if !v.early { // it is alive
			w.requireSockets()
			w.requireTraffic()
			v.goOn()
		}
	}
	v.kill()
	w.update(v)
}

// victim is a process that is to be killed.
type victim struct {
	*testing.T
	process *labtest.Process
	notices *gob.Decoder
	input   *os.File
	after   time.Duration // from go-on to the kill; zero: it kills itself
	early   bool          // after counts from its start, so it is dead when start returns
	adopted bool
	step    string     // the last
	begun   *operation // not acknowledged yet
	done    []acknowledgedOperation
}

// acknowledgedOperation is an operation with what its caller was told.
type acknowledgedOperation struct {
	operation
	result result
}

// start starts a process, and chooses when it is killed.
func (w *killRun) start(i int, damaged bool) *victim {
	w.Helper()
	step, count, after := "", "0", time.Duration(0)
	switch w.IntN(4) {
	case 0, 1:
		if step, count = pick(w.chooser, killSteps()), fmt.Sprint(1+w.IntN(3)); isOfRanges(step) {
			count = "1"
		}
	case 2:
		count = fmt.Sprint(1 + w.IntN(6*operationsPerWorker))
	case 3:
		after = time.Duration(1+w.IntN(25_000)) * time.Microsecond
	}
	// These steps are seldom reached, and only once.
	switch seldom := w.IntN(2) == 0; {
	case seldom && damaged:
		step, count, after = "repair", "1", 0
	case seldom && len(w.notes) != 0:
		step, count, after = "ended", "1", 0
	}
	seed := fmt.Sprint(w.Uint64())
	w.what = fmt.Sprintf("round %d: killed at step %q, count %s, after %s; operations of seed %s", i, step, count, after, seed)
	out, in := w.pipe(), w.pipe()
	cmd := child(w.T, "work", w.top.Host.Path(), fmt.Sprintf("t%d", i), seed, step, count, w.file, waysOfLoopback[i%2])
	cmd.Stdin, cmd.Stdout = in.r, out.w
	v := &victim{T: w.T, notices: gob.NewDecoder(out.r), input: in.w, after: after, early: after != 0 && w.IntN(3) == 0}
	v.process = labtest.StartCmd(w.T, w.top.Host, cmd)
	require.NoError(w, errors.Join(in.r.Close(), out.w.Close()))
	w.Cleanup(func() { _ = out.r.Close() })
	if v.early {
		time.Sleep(after) // any instant: nothing waits for it
		v.process.Kill()
	}
	return v
}

type pipe struct{ r, w *os.File }

func (w *killRun) pipe() pipe {
	w.Helper()
	r, wr, err := os.Pipe()
	require.NoError(w, err)
	return pipe{r, wr}
}

// await reads notices until one is as wanted. It returns nil if the process has ended.
func (v *victim) await(that func(notice) bool) *notice {
	v.Helper()
	for {
		var n notice
		switch err := v.notices.Decode(&n); {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil // a notice that was cut off does not count
		case err != nil:
			require.NoError(v, err, v.process.Output())
		}
		switch {
		case n.Step != "":
			v.step = n.Step
		case n.Begin != nil:
			v.begun, v.step = n.Begin, "begin"
		case n.End != nil:
			v.done = append(v.done, acknowledgedOperation{*v.begun, *n.End})
			v.begun, v.step = nil, "between"
		}
		if that(n) {
			return &n
		}
	}
}

func (v *victim) goOn() {
	v.Helper()
	_, err := v.input.Write([]byte("\n"))
	require.NoError(v, err)
	if v.after != 0 {
		time.Sleep(v.after) // any instant: nothing waits for it
		v.process.Kill()
	}
}

// kill waits until the process has ended by SIGKILL, its own or the test's.
func (v *victim) kill() {
	v.Helper()
	v.await(func(notice) bool { return false })
	_ = v.input.Close()
	require.Equal(v, -1, v.process.Wait(), "it was not killed: %s", v.process.Output())
}

// update brings the model up to date: with the operations that were acknowledged, and with
// the one that was not, if the kernel has it.
func (w *killRun) update(v *victim) {
	w.Helper()
	w.covered.note(v.step)
	w.what += fmt.Sprintf("; it died at %q", v.step)
	if v.begun != nil {
		w.what += fmt.Sprintf(" of %+v", *v.begun)
	}
	for _, d := range v.done {
		w.enter(d)
	}
	var replaced []string
	notes := w.notes
	if v.adopted {
		notes = nil // they have been acted on
	}
	found, before := w.read(), w.model
	w.cut = v.begun != nil
	if v.begun != nil && !found.equal(w.model) {
		after, err := w.model.after(*v.begun, found)
		require.NoError(w, err, "%s\nneither done nor undone: %+v\n%s", w.what, *v.begun, w.model.difference(found))
		w.model, notes, replaced = after, notesBetween(before, after), notesOnReplaced(before, after)
	}
	w.requireEqual(found, "left")
	w.requireTable(notes, replaced)
}

// enter applies an acknowledged operation to the model, with the ports that its caller was
// told.
func (w *killRun) enter(d acknowledgedOperation) {
	w.Helper()
	if d.result.Err != "" {
		return
	}
	told := w.model.clone()
	for _, m := range d.result.Mappings {
		told.mappings = slices.AppendSeq(told.mappings, nat.Expand(m))
	}
	after, err := w.model.after(d.operation, told)
	require.NoError(w, err, "%s\nacknowledged: %+v %+v", w.what, d.operation, d.result)
	if d.Verb == verbAttach {
		at := after.endpoints[len(after.endpoints)-1].Address
		require.Equal(w, at, d.result.Address, "%s: it is not the next address that was leased", w.what)
	}
	w.model = after
}
