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

// killSteps are the steps at which random kills aim, in the words of Options.Trace. Any
// other step is hit as well, by its number: a step that is new need not be named here,
// but what is named here has to be hit.
func killSteps() []string {
	return []string{"adopt", "repair", "ended", "reserve", "bind", "forward", "commit", "save", "flows", "open", "done"}
}

// How many processes are killed, in a long test, and from which seed on, unless the
// environment says otherwise; and how many in one world, which is then thrown away.
const (
	envKills, defaultKills = "NFTNAT_KILLS", 300
	envSeed, defaultSeed   = "NFTNAT_SEED", 2013
	killsOfWorld           = 75
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

// Processes that do random deeds are killed, each at a named step, at the n-th of its
// steps or at any instant. Whatever it was, the next process finds all that was
// acknowledged and nothing else, and of what was not yet acknowledged all or nothing:
// in the kernel, in its sockets and leases, and in the file.
//
// NFTNAT_KILLS is how many are killed, NFTNAT_SEED what the choices begin with.
func TestRandomKills(t *testing.T) {
	kills := labtest.RoundsOf(t, envKills, "kills", 20, defaultKills)
	seed := labtest.Number(t, envSeed, defaultSeed)
	covered := coverage{steps: map[string]int{}}
	t.Run("worlds", func(t *testing.T) {
		for first := 0; first < kills; first += killsOfWorld {
			t.Run(fmt.Sprintf("seed %d", seed+first), func(t *testing.T) {
				t.Parallel()
				w := newKillWorld(t, uint64(seed+first), &covered)
				for i := range min(killsOfWorld, kills-first) {
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

// killWorld is a machine whose processes are killed, and one like it with an engine that
// is not, which is given what was acknowledged.
type killWorld struct {
	*testing.T
	choosing
	top, like *lab.Topology
	mirror    *engine.Engine
	book      ledger // what was acknowledged
	file      string // where it is kept as well
	covered   *coverage
	what      string   // is going on
	notes     []string // of what has ended, in the table
	asked     []inquiry
	looked    uint32 // the table's generation at the last look
	cut       bool   // the last deed was cut short
}

func newKillWorld(t *testing.T, seed uint64, covered *coverage) *killWorld {
	t.Helper()
	parts := lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2}
	w := &killWorld{
		T: t, choosing: choosing{rand.New(rand.NewPCG(seed, 1))}, covered: covered,
		top: newTopology(t, parts), like: newTopology(t, parts), file: filepath.Join(t.TempDir(), "state.yaml"),
	}
	// Clients' own ports are none that are published.
	require.NoError(t, w.top.Host.Sysctl("net.ipv4.ip_local_port_range", "20000 30000"))
	w.mirror = open(t, w.like.Host, engine.Options{})
	// An empty table and none are not the same: there is one from here on.
	for _, ns := range []*lab.NS{w.top.Host, w.like.Host} {
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
	for _, backend := range []*lab.NS{w.top.Backend1, w.top.Backend2} {
		for port := firstDeedBackend; port < firstDeedBackend+deedBackends; port++ {
			for _, network := range []string{"tcp", "udp"} {
				labtest.Echo(t, backend, network, fmt.Sprintf("%s:%d", backend, port), fmt.Sprint(":", port))
			}
		}
	}
	return w
}

// round starts a process, looks at what it has adopted, lets it work, sees it killed,
// and looks at what it has left.
func (w *killWorld) round(i int) {
	w.Helper()
	damaged := w.IntN(8) == 0 && w.damage()
	v := w.start(i, damaged)
	if ready := v.await(func(n notice) bool { return n.Ready != nil }); ready != nil {
		v.adopted = true
		w.requireEqual(ledgerOf(*ready.Ready), "adopted")
		w.requireFile()
		w.requireTable(nil)
		if damaged {
			w.requireRules()
		}
		if !v.early { // it lives
			w.requireSockets()
			w.requireTraffic()
			v.goOn()
		}
	}
	v.kill()
	w.settle(v)
}

// victim is a process that is to be killed.
type victim struct {
	*testing.T
	process *labtest.Process
	words   *gob.Decoder
	input   *os.File
	after   time.Duration // it is killed so long after it is told to go on; zero: it kills itself
	early   bool          // or after its start: then it is dead by now
	adopted bool
	step    string // the last
	begun   *deed  // not acknowledged yet
	done    []doneDeed
}

// doneDeed is a deed that was acknowledged.
type doneDeed struct {
	deed
	yield yield
}

// start starts a process with its fate.
func (w *killWorld) start(i int, damaged bool) *victim {
	w.Helper()
	step, count, after := "", "0", time.Duration(0)
	switch w.IntN(4) {
	case 0, 1:
		step, count = pick(w.choosing, killSteps()), fmt.Sprint(1+w.IntN(3))
	case 2:
		count = fmt.Sprint(1 + w.IntN(6*deedsOfWorker))
	case 3:
		after = time.Duration(1+w.IntN(25_000)) * time.Microsecond
	}
	// These come at times only, and but once.
	switch seldom := w.IntN(2) == 0; {
	case seldom && damaged:
		step, count, after = "repair", "1", 0
	case seldom && len(w.notes) != 0:
		step, count, after = "ended", "1", 0
	}
	seed := fmt.Sprint(w.Uint64())
	w.what = fmt.Sprintf("round %d: killed at step %q, count %s, after %s; deeds of seed %s", i, step, count, after, seed)
	out, in := w.pipe(), w.pipe()
	cmd := child(w.T, "work", w.top.Host.Path(), fmt.Sprintf("t%d", i), seed, step, count, w.file)
	cmd.Stdin, cmd.Stdout = in.r, out.w
	v := &victim{T: w.T, words: gob.NewDecoder(out.r), input: in.w, after: after, early: after != 0 && w.IntN(3) == 0}
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

func (w *killWorld) pipe() pipe {
	w.Helper()
	r, wr, err := os.Pipe()
	require.NoError(w, err)
	return pipe{r, wr}
}

// await reads what the process tells until it tells that, or has ended.
func (v *victim) await(that func(notice) bool) *notice {
	v.Helper()
	for {
		var n notice
		switch err := v.words.Decode(&n); {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil // a word that was cut short was not said
		case err != nil:
			require.NoError(v, err, v.process.Output())
		}
		switch {
		case n.Step != "":
			v.step = n.Step
		case n.Begin != nil:
			v.begun, v.step = n.Begin, "begin"
		case n.End != nil:
			v.done = append(v.done, doneDeed{*v.begun, *n.End})
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

// kill sees to it that the process ends by SIGKILL, its own or another's.
func (v *victim) kill() {
	v.Helper()
	v.await(func(notice) bool { return false })
	_ = v.input.Close()
	require.Equal(v, -1, v.process.Wait(), "it was not killed: %s", v.process.Output())
}

// settle enters what was acknowledged into the book, and of the deed that was not all or
// nothing, as the kernel has it.
func (w *killWorld) settle(v *victim) {
	w.Helper()
	w.covered.note(v.step)
	w.what += fmt.Sprintf("; it died at %q", v.step)
	for _, d := range v.done {
		w.enter(d)
	}
	notes := w.notes
	if v.adopted {
		notes = nil // what there was of them asked for something that has been done
	}
	found, before := w.read(), w.book
	w.cut = v.begun != nil
	if v.begun != nil && !found.equal(w.book) {
		after, err := w.book.after(*v.begun, found)
		require.NoError(w, err, "%s\nneither done nor undone: %+v\n%s", w.what, *v.begun, w.book.difference(found))
		w.book, notes = after, notesBetween(before, after)
	}
	w.requireEqual(found, "left")
	w.requireTable(notes)
}

// enter enters an acknowledged deed. What is chosen in it is what its caller was told.
func (w *killWorld) enter(d doneDeed) {
	w.Helper()
	if d.yield.Err != "" {
		return
	}
	told := w.book.clone()
	for _, m := range d.yield.Mappings {
		told.mappings = slices.AppendSeq(told.mappings, nat.Expand(m))
	}
	after, err := w.book.after(d.deed, told)
	require.NoError(w, err, "%s\nacknowledged: %+v %+v", w.what, d.deed, d.yield)
	if d.Verb == verbAttach {
		at := after.endpoints[len(after.endpoints)-1].Address
		require.Equal(w, at, d.yield.Address, "%s: it is not the next address that was leased", w.what)
	}
	w.book = after
}
