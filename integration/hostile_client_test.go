// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// nuisance is what a hostile client does with each of its connections.
type nuisance struct {
	conns int
	again bool // it replaces a connection that is closed
	// annoy uses a connection until that fails.
	annoy func(nc net.Conn) error
}

const postHead = "POST /v1/mappings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"

func nuisances() map[string]nuisance {
	post := func(body string) func(net.Conn) error {
		text := fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", postHead, len(body), body)
		return func(nc net.Conn) error {
			go func() { _, _ = io.WriteString(nc, text) }() // the answer may come before all is sent
			_, err := io.ReadAtLeast(nc, make([]byte, 64<<10), 1)
			return errors.Join(err, nc.Close())
		}
	}
	return map[string]nuisance{
		"half-open": {1000, false, func(nc net.Conn) error {
			if _, err := io.WriteString(nc, "GET /v1/mappings HTTP/1.1\r\nHo"); err != nil {
				return err
			}
			_, err := io.Copy(io.Discard, nc)
			return err
		}},
		"silent": {1000, false, func(nc net.Conn) error {
			_, err := io.Copy(io.Discard, nc)
			return err
		}},
		"headers": {200, false, func(nc net.Conn) error {
			if _, err := io.WriteString(nc, "GET /v1/mappings HTTP/1.1\r\nHost: x\r\n"); err != nil {
				return err
			}
			for i := 0; ; i++ {
				if _, err := fmt.Fprintf(nc, "X-%d: %d\r\n", i, i); err != nil {
					return err
				}
			}
		}},
		"slow": {300, false, func(nc net.Conn) error {
			if _, err := io.WriteString(nc, postHead+"Content-Length: 100000\r\n\r\n"); err != nil {
				return err
			}
			for {
				if _, err := io.WriteString(nc, " "); err != nil {
					return err
				}
				time.Sleep(20 * time.Millisecond)
			}
		}},
		"deep":  {16, true, post(strings.Repeat("[", 500_000))},
		"large": {16, true, post("[" + strings.Repeat(`{"proto":"tcp","port":1,"backend":"172.30.0.2:80"},`, 20_000) + `{"proto":"sctp"}]`)},
		"pipeline": {16, true, func(nc net.Conn) error {
			requests := strings.Repeat("GET /v1/mappings HTTP/1.1\r\nHost: x\r\n\r\n", 1000)
			go func() { _, _ = io.WriteString(nc, requests) }()
			_, err := io.Copy(io.Discard, nc)
			return err
		}},
	}
}

// childHostile is a hostile client. It reports when all of its connections are made.
func childHostile(socket, kind string) error {
	n, ok := nuisances()[kind]
	if !ok {
		return fmt.Errorf("no nuisance is called %q", kind)
	}
	var made, all sync.WaitGroup
	made.Add(n.conns)
	for range n.conns {
		all.Go(func() {
			for first := true; ; first = false {
				nc, err := net.Dial("unix", socket)
				if first {
					made.Done()
				}
				if err != nil { // the queue is full
					time.Sleep(10 * time.Millisecond)
					continue
				}
				_ = n.annoy(nc)
				_ = nc.Close()
				if !n.again {
					return
				}
			}
		})
	}
	made.Wait()
	fmt.Println("ready")
	all.Wait()
	select {} // until it is ended
}

// A hostile client that may use the socket does not keep others from it: their requests are
// served, and the daemon bounds the connections and memory of the hostile one. The times are
// measured; see docs/reliability.md.
func TestHostileClients(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	daemon := s.serve(t)
	s.succeed(t, "add tcp 1000-1099 172.30.0.2 --no-proxy --quiet")
	turns := labtest.Rounds(t, "turns of each client beside hostile ones", 5, 25)
	quiet := s.wellBehaved(t, turns)
	t.Logf("alone: %s", quiet)
	for kind, n := range nuisances() {
		t.Run(kind, func(t *testing.T) {
			p := labtest.StartCmd(t, top.Host, child(t, "hostile", top.Host.Path(), s.socket, kind))
			await(t, "the hostile client to have all of its connections", func() bool { return strings.Contains(p.Output(), "ready") })
			got := s.wellBehaved(t, turns)
			open := openBy(t, daemon.Pid)
			peak := peakMemory(t, daemon.Pid)
			t.Logf("beside %d connections, %s: %s; the daemon had %d descriptors, and %d MiB of memory at most", n.conns, kind, got, open, peak>>20)
			require.Less(t, open, 1500, "connections are bounded")
			require.Less(t, peak, 1<<30)
			p.Kill()
		})
	}
}

// latencies are the durations of requests.
type latencies []time.Duration

func (l latencies) String() string {
	slices.Sort(l)
	at := func(percent int) time.Duration { return l[(len(l)-1)*percent/100].Round(100 * time.Microsecond) }
	return fmt.Sprintf("%d requests, p50 %v, p99 %v, slowest %v", len(l), at(50), at(99), at(100))
}

// wellBehaved makes requests as commands do, with a connection for each.
func (s *testbed) wellBehaved(t *testing.T, turns int) latencies {
	t.Helper()
	const clients = 4
	var mu sync.Mutex
	var all latencies
	var running sync.WaitGroup
	failures := make([]error, clients)
	for i := range clients {
		running.Go(func() {
			m, err := nat.ParseMapping("tcp", strconv.Itoa(2000+i), "172.30.0.2:80")
			ctx := context.Background()
			for turn := 0; turn < turns && err == nil; turn++ {
				for _, ask := range []func(*api.Client) error{
					func(c *api.Client) error { _, err := c.Status(ctx); return err },
					func(c *api.Client) error { _, err := c.Publish(ctx, nat.PublishOptions{}, m); return err },
					func(c *api.Client) error { _, err := c.Mappings(ctx); return err },
					func(c *api.Client) error {
						_, err := c.Remove(ctx, nat.Removal{Mappings: []nat.Mapping{m}})
						return err
					},
				} {
					begin := time.Now()
					err = errors.Join(err, ask(api.NewClient(s.socket)))
					took := time.Since(begin)
					mu.Lock()
					all = append(all, took)
					mu.Unlock()
				}
			}
			failures[i] = err
		})
	}
	running.Wait()
	require.NoError(t, errors.Join(failures...))
	return all
}

// peakMemory is the peak resident memory of a process (proc(5), VmHWM).
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	peak := peakWhileRunning(pid)
	require.Positive(t, peak)
	return peak
}

// peakWhileRunning is peakMemory, or 0 if the process has ended.
func peakWhileRunning(pid int) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	kib, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, _ := strconv.Atoi(kib)
	return n << 10
}
