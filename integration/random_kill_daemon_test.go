// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// How many daemons are killed in a long test, unless the environment says otherwise.
const envDaemonKills, defaultDaemonKills = "NFTNAT_DAEMON_KILLS", 40

// Daemons that do random deeds for a client are killed at any instant. What the client
// was answered is there when the next one answers, and of what it was not, all or
// nothing.
//
// NFTNAT_DAEMON_KILLS is how many are killed, NFTNAT_SEED what the choices begin with.
func TestRandomDaemonKills(t *testing.T) {
	kills := labtest.RoundsOf(t, envDaemonKills, "kills of daemons", 5, defaultDaemonKills)
	seed := labtest.Number(t, envSeed, defaultSeed)
	covered := coverage{steps: map[string]int{}}
	t.Cleanup(func() { t.Logf("killed at: %v", covered.steps) })
	for first := 0; first < kills; first += killsOfWorld {
		t.Run(fmt.Sprintf("seed %d", seed+first), func(t *testing.T) {
			w := newKillWorld(t, uint64(seed+first), &covered)
			s := newStation(t, w.top.Host)
			for i := range min(killsOfWorld, kills-first) {
				w.daemonRound(s, i)
			}
		})
	}
	if kills >= defaultDaemonKills && !t.Failed() {
		require.NotZero(t, covered.steps["begin"], "nobody was killed while something was being done")
	}
}

// daemonRound is round with a daemon.
func (w *killWorld) daemonRound(s *station, i int) {
	w.Helper()
	damaged := w.IntN(8) == 0 && w.damage()
	after := time.Duration(1+w.IntN(20_000)) * time.Microsecond
	client := &deedClient{api: s.api, choosing: choosing{rand.New(rand.NewPCG(w.Uint64(), 0))}, ended: make(chan struct{})}
	w.what = fmt.Sprintf("round %d: a daemon, killed after %s", i, after)
	p := s.serve(w.T)
	found, err := s.api.State(context.Background())
	require.NoError(w, err, w.what)
	w.requireEqual(ledgerOf(found), "adopted")
	w.requireTable(nil)
	if damaged {
		w.requireRules()
	}
	w.requireSockets()
	w.requireTraffic()

	go client.work(fmt.Sprintf("t%d", i))
	time.Sleep(after) // any instant: nothing waits for it
	client.killing.Store(true)
	p.Kill()
	<-client.ended
	client.fate.adopted = true
	w.settle(&client.fate)
}

// deedClient asks a daemon for one deed after the other until it answers no more.
type deedClient struct {
	choosing
	api     *api.Client
	killing atomic.Bool   // the daemon is being killed, or has been
	ended   chan struct{} // closed when there is no more to tell
	fate    victim        // what was acknowledged, and what was not
	// pace is when the next deed may begin, and stop when there is none any more. Nil: at
	// once, and never.
	pace <-chan time.Time
	stop <-chan struct{}
}

func (c *deedClient) work(tag string) {
	defer close(c.ended)
	for i := 0; ; i++ {
		c.fate.step = "between"
		if c.pace != nil {
			select {
			case <-c.stop:
				return
			case <-c.pace:
			}
		}
		s, err := c.api.State(context.Background())
		if err != nil {
			return
		}
		d := c.deed(s, fmt.Sprintf("%s.%d", tag, i))
		if d.Verb == verbUnpublish || d.Verb == verbKill {
			d.Mappings = d.Mappings[:1] // it takes back one at a time
		}
		c.fate.begun, c.fate.step = &d, "begin"
		y := d.do(daemonDoer{c.api})
		if y.Err != "" && c.killing.Load() {
			return // nobody knows what that was the answer to
		}
		c.fate.done = append(c.fate.done, doneDeed{d, y})
		c.fate.begun = nil
	}
}
