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

// How long the test works unless the environment says otherwise, and the operations per
// second.
const (
	envSoak, defaultSoak = "NFTNAT_SOAK", 12 * time.Second
	soakRate             = 200
)

// usage is what must not grow.
type usage struct {
	resident, goroutines, files float64
}

// For NFTNAT_SOAK, a client makes 200 random operations a second, others flush the ruleset,
// and daemons are killed and taken over. After each minute, kernel, sockets and traffic
// agree with what was acknowledged, and the daemon uses no more than before.
func TestSoak(t *testing.T) {
	labtest.LongOnly(t, "random changes, flushes, kills and takeovers")
	bothWays(t, soakOf)
}

func soakOf(t *testing.T, loopback string) {
	t.Helper()
	lasts, seed := defaultSoak, labtest.Number(t, envSeed, defaultSeed)
	if text := os.Getenv(envSoak); text != "" {
		var err error
		lasts, err = time.ParseDuration(text)
		require.NoError(t, err, envSoak)
	}
	minute := min(time.Minute, lasts/4)
	covered := coverage{steps: map[string]int{}}
	w := newKillRun(t, uint64(seed), &covered)
	k := &soak{killRun: w, testbed: newTestbed(t, w.top.Host)}
	k.file = filepath.Join(filepath.Dir(k.socket), "state.yaml")
	k.loopback = loopback
	k.begin()
	for i, end := 0, time.Now().Add(lasts); time.Now().Before(end); i++ {
		k.minute(i, minute)
	}
	t.Logf("%d operations, of which %d were refused; %d flushes; %d daemons, %d by takeover; of the last: %.0f MiB resident, %.0f goroutines, %.0f descriptors",
		k.operations, k.refused, k.flushes, k.daemons, k.takeovers, k.last.resident/(1<<20), k.last.goroutines, k.last.files)
	require.NotZero(t, k.operations)
	require.NotZero(t, k.flushes)
}

// soak is a kill run with a daemon.
type soak struct {
	*killRun
	*testbed
	file    string // the state file
	daemon  *labtest.Process
	first   usage // of the running daemon, after its first minute
	last    usage
	minutes int // age of the running daemon

	operations, refused, flushes, daemons, takeovers int
}

// begin starts a daemon, with or without ownership of its table.
func (k *soak) begin(args ...string) {
	args = append(args, "--state", k.file)
	if k.IntN(2) == 0 {
		args = append(args, "--no-owner")
	}
	k.daemon = k.serve(k.T, args...)
	k.daemons++
	k.minutes = 0
}

// minute lets the client work while others interfere, and then checks everything.
func (k *soak) minute(i int, lasts time.Duration) {
	k.Helper()
	k.what = fmt.Sprintf("minute %d, daemon %d", i, k.daemons)
	stop := make(chan struct{})
	pace := time.NewTicker(time.Second / soakRate)
	defer pace.Stop()
	client := &operationClient{
		api: k.api, chooser: chooser{rand.New(rand.NewPCG(k.Uint64(), 0))}, ended: make(chan struct{}),
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
	k.operations += len(client.log.done)
	for _, d := range client.log.done {
		if d.result.Err != "" {
			k.refused++
		}
	}
	client.log.adopted = true
	client.log.T = k.T
	if kill {
		// What the flush removed comes back from the file.
		if k.IntN(2) == 0 {
			k.flush()
		}
		k.begin()
		k.update(&client.log)
	} else {
		require.Nil(k, client.log.begun, k.what)
		for _, d := range client.log.done {
			k.enter(d)
		}
		k.minutes++
	}
	found, err := k.api.State(context.Background())
	require.NoError(k, err, k.what)
	k.requireEqual(modelOf(found), "answered by the daemon")
	k.awaitRepair()
	k.requireEqual(k.read(), "in the kernel")
	k.requireRules()
	k.requireTable(nil, nil)
	k.requireSockets()
	k.requireTraffic()
	k.requireFlat()
}

// interfere flushes the ruleset at random times, which fails if the table is owned.
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

// awaitRepair waits until the daemon has repaired the last flush.
func (k *soak) awaitRepair() {
	k.Helper()
	await(k.T, "the last repair", func() bool {
		r := labtest.Run(k.T, k.top.Host, command(k.T, "nft", "list", "chain", "inet", "nftnat", "raw-prerouting"))
		return r.Code == 0
	})
}

// requireFlat compares the daemon's usage with that after its first minute.
func (k *soak) requireFlat() {
	k.Helper()
	k.last = k.usage()
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

// usage reads the daemon's metrics.
func (k *soak) usage() (v usage) {
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
