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

// Daemons that make random operations for a client are killed at any instant. What they
// acknowledged is there when the next daemon answers, and an operation that was not
// acknowledged is wholly done or undone.
//
// NFTNAT_DAEMON_KILLS is the number of kills, NFTNAT_SEED the first seed.
func TestRandomDaemonKills(t *testing.T) {
	kills := labtest.RoundsOf(t, envDaemonKills, "kills of daemons", 5, defaultDaemonKills)
	seed := labtest.Number(t, envSeed, defaultSeed)
	covered := coverage{steps: map[string]int{}}
	t.Cleanup(func() { t.Logf("killed at: %v", covered.steps) })
	for first := 0; first < kills; first += killsPerRun {
		t.Run(fmt.Sprintf("seed %d", seed+first), func(t *testing.T) {
			w := newKillRun(t, uint64(seed+first), &covered)
			s := newTestbed(t, w.top.Host)
			for i := range min(killsPerRun, kills-first) {
				w.daemonRound(s, i)
			}
		})
	}
	if kills >= defaultDaemonKills && !t.Failed() {
		require.NotZero(t, covered.steps["begin"], "nobody was killed during an operation")
	}
}

// daemonRound is like round, with a daemon.
func (w *killRun) daemonRound(s *testbed, i int) {
	w.Helper()
	damaged := w.IntN(8) == 0 && w.damage()
	after := time.Duration(1+w.IntN(20_000)) * time.Microsecond
	client := &operationClient{api: s.api, chooser: chooser{rand.New(rand.NewPCG(w.Uint64(), 0))}, ended: make(chan struct{})}
	s.loopback = waysOfLoopback[i%2]
	w.what = fmt.Sprintf("round %d: a daemon, localhost by %s, killed after %s", i, s.loopback, after)
	p := s.serve(w.T)
	found, err := s.api.State(context.Background())
	require.NoError(w, err, w.what)
	w.requireEqual(modelOf(found), "adopted")
	w.requireTable(nil, nil)
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
	client.log.adopted = true
	w.update(&client.log)
}

// operationClient makes one operation after the other until the daemon answers no more.
type operationClient struct {
	chooser
	api     *api.Client
	killing atomic.Bool   // the daemon is being killed, or has been
	ended   chan struct{} // closed at the end of work
	log     victim        // what was acknowledged, and what was not
	// pace starts each operation, and stop ends the work. Nil: at once, and never.
	pace <-chan time.Time
	stop <-chan struct{}
}

func (c *operationClient) work(tag string) {
	defer close(c.ended)
	for i := 0; ; i++ {
		c.log.step = "between"
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
		d := c.operation(s, fmt.Sprintf("%s.%d", tag, i))
		if d.Verb == verbUnpublish || d.Verb == verbKill {
			d.Mappings = d.Mappings[:1] // the API unpublishes one at a time
		}
		c.log.begun, c.log.step = &d, "begin"
		r := d.do(daemonCaller(c.api))
		if r.Err != "" && c.killing.Load() {
			return // the answer may be of a daemon that is dying
		}
		c.log.done = append(c.log.done, acknowledgedOperation{d, r})
		c.log.begun = nil
	}
}
