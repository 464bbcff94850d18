// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// How long there is work unless the environment says otherwise, and how much of it a
// second.
const (
	envSoak, defaultSoak = "NFTNAT_SOAK", 12 * time.Second
	soakRate             = 200
)

// vitals are what must not grow.
type vitals struct {
	resident, goroutines, files float64
}

// For as long as NFTNAT_SOAK says, a client does 200 random deeds a second, others flush
// the ruleset, and daemons are killed and taken over. At each minute kernel, sockets and
// traffic are what was acknowledged, and the daemon holds no more than it did before.
func TestSoak(t *testing.T) {
	labtest.LongOnly(t, "random changes, flushes, kills and takeovers")
	lasts, seed := defaultSoak, labtest.Number(t, envSeed, defaultSeed)
	if text := os.Getenv(envSoak); text != "" {
		var err error
		lasts, err = time.ParseDuration(text)
		require.NoError(t, err, envSoak)
	}
	minute := min(time.Minute, lasts/4)
	covered := coverage{steps: map[string]int{}}
	w := newKillWorld(t, uint64(seed), &covered)
	k := &soak{killWorld: w, station: newStation(t, w.top.Host)}
	k.file = filepath.Join(filepath.Dir(k.socket), "state.yaml")
	k.begin()
	for i, end := 0, time.Now().Add(lasts); time.Now().Before(end); i++ {
		k.minute(i, minute)
	}
	t.Logf("%d deeds, of which %d were refused; %d flushes; %d daemons, %d by takeover; of the last: %.0f MiB resident, %.0f goroutines, %.0f descriptors",
		k.deeds, k.refused, k.flushes, k.daemons, k.takeovers, k.last.resident/(1<<20), k.last.goroutines, k.last.files)
	require.NotZero(t, k.deeds)
	require.NotZero(t, k.flushes)
}

// soak is a world with a daemon in it.
type soak struct {
	*killWorld
	*station
	file    string // of its state
	daemon  *labtest.Process
	first   vitals // of the daemon that runs, after its first minute
	last    vitals
	minutes int // that the daemon has lived for

	deeds, refused, flushes, daemons, takeovers int
}

// begin starts a daemon, whose table others can change or not.
func (k *soak) begin(args ...string) {
	args = append(args, "--state", k.file)
	if k.IntN(2) == 0 {
		args = append(args, "--no-owner")
	}
	k.daemon = k.serve(k.T, args...)
	k.daemons++
	k.minutes = 0
}

// minute has the client work and others interfere, and looks at what there is then.
func (k *soak) minute(i int, lasts time.Duration) {
	k.Helper()
	k.what = fmt.Sprintf("minute %d, daemon %d", i, k.daemons)
	stop := make(chan struct{})
	pace := time.NewTicker(time.Second / soakRate)
	defer pace.Stop()
	client := &deedClient{
		api: k.api, choosing: choosing{rand.New(rand.NewPCG(k.Uint64(), 0))}, ended: make(chan struct{}),
		pace: pace.C, stop: stop,
	}
	go client.work(fmt.Sprintf("m%d", i))
	end := k.IntN(3)
	kill := end == 0
	k.interfere(time.Now().Add(lasts))
	switch end {
	case 0:
		client.killing.Store(true)
		k.daemon.Kill()
	case 1:
		before := k.daemon
		k.begin("--takeover")
		require.Zero(k, before.Wait(), before.Output())
		k.takeovers++
	}
	close(stop)
	<-client.ended
	k.deeds += len(client.fate.done)
	for _, d := range client.fate.done {
		if d.yield.Err != "" {
			k.refused++
		}
	}
	client.fate.adopted = true
	client.fate.T = k.T
	if kill {
		// What the table has lost by now comes back from the file.
		if k.IntN(2) == 0 {
			k.flush()
		}
		k.begin()
		k.settle(&client.fate)
	} else {
		require.Nil(k, client.fate.begun, k.what)
		for _, d := range client.fate.done {
			k.enter(d)
		}
		k.minutes++
	}
	found, err := k.api.State(context.Background())
	require.NoError(k, err, k.what)
	k.requireEqual(ledgerOf(found), "told by the daemon")
	k.awaitPeace()
	k.requireEqual(k.read(), "in the kernel")
	k.requireRules()
	k.requireTable(nil)
	k.requireSockets()
	k.requireTraffic()
	k.requireFlat()
}

// interfere has others flush the ruleset until then, which they can or cannot.
func (k *soak) interfere(until time.Time) {
	k.Helper()
	for time.Now().Before(until) {
		time.Sleep(time.Duration(k.IntN(int(min(time.Second, time.Until(until)+1)))))
		k.flush()
	}
}

func (k *soak) flush() {
	k.Helper()
	labtest.Run(k.T, k.top.Host, command(k.T, "nft", "flush ruleset"))
	k.flushes++
}

// awaitPeace waits until what the last flush has taken is there again.
func (k *soak) awaitPeace() {
	k.Helper()
	await(k.T, "the last repair", func() bool {
		r := labtest.Run(k.T, k.top.Host, command(k.T, "nft", "list", "chain", "inet", "nftnat", "raw-prerouting"))
		return r.Code == 0
	})
}

// requireFlat compares what the daemon holds with what it held after its first minute.
func (k *soak) requireFlat() {
	k.Helper()
	k.last = k.vitals()
	switch k.minutes {
	case 0:
		return
	case 1:
		k.first = k.last
		return
	}
	// The state has at most some dozens of mappings, with five sockets each; the
	// collector lets the heap double.
	require.Less(k, k.last.resident, 2*k.first.resident+16<<20, k.what)
	require.Less(k, k.last.goroutines, k.first.goroutines+50, k.what)
	require.Less(k, k.last.files, k.first.files+400, k.what)
}

// vitals are read from the daemon's metrics.
func (k *soak) vitals() (v vitals) {
	k.Helper()
	r, err := k.client().Get("http://nftnat/metrics")
	require.NoError(k, err, k.what)
	defer func() { _ = r.Body.Close() }()
	values := map[string]*float64{
		"process_resident_memory_bytes": &v.resident, "go_goroutines": &v.goroutines, "process_open_fds": &v.files,
	}
	lines := bufio.NewScanner(r.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if p := values[name]; p != nil {
			*p, err = strconv.ParseFloat(value, 64)
			require.NoError(k, err, k.what)
			delete(values, name)
		}
	}
	require.NoError(k, lines.Err(), k.what)
	require.Empty(k, values, "%s: no such metrics", k.what)
	_, _ = io.Copy(io.Discard, r.Body)
	return v
}
