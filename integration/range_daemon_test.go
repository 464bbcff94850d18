// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// What a daemon with wide ranges may have: descriptors in all, with two of the state file, and memory more than
// without. A range is an element and a few lines of the daemon's own; a megabyte leaves room for what the runtime
// keeps of garbage.
const (
	mostDescriptors = 64 + 2
	mostMemory      = 1 << 20
)

// rangeDaemon is a daemon with 19,001 ports over UDP and 50,001 over TCP.
type rangeDaemon struct {
	*testbed
	top    *lab.Topology
	path   string // its state file
	daemon *labtest.Process
}

func newRangeDaemon(t *testing.T, loopback string) *rangeDaemon {
	t.Helper()
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2, Forwarding: true})
	for name, ns := range map[string]*lab.NS{"one": top.Backend1, "two": top.Backend2} {
		for _, port := range []int{10000, 20000, 29000, 60000} {
			for _, network := range []string{"tcp", "udp"} {
				labtest.Echo(t, ns, network, fmt.Sprint(name, ":", port), fmt.Sprint(":", port))
			}
		}
	}
	r := &rangeDaemon{testbed: newTestbed(t, top.Host), top: top, path: stateFile(t)}
	r.loopback = loopback
	return r
}

func (r *rangeDaemon) start(t *testing.T, args ...string) {
	t.Helper()
	r.daemon = r.serve(t, append(args, "--state", r.path)...)
}

// leads requires that ports lead to a backend, for clients of this host as well.
func (r *rangeDaemon) leads(t *testing.T, network, backend string, ports ...int) {
	t.Helper()
	for _, port := range ports {
		name := fmt.Sprint(backend, ":", port)
		labtest.Reaches(t, r.top.Client, network, at(r.top.Host.V4, port), name)
		labtest.Reaches(t, r.top.Host, network, fmt.Sprint("127.0.0.1:", port), name)
		labtest.Reaches(t, r.top.Host, network, fmt.Sprint("[::1]:", port), name)
	}
}

// check checks what is published after the ports were taken out, and what the daemon has.
func (r *rangeDaemon) check(t *testing.T) {
	t.Helper()
	r.leads(t, "tcp", "one", 10000, 60000)
	r.leads(t, "tcp", "two", 20000)
	r.leads(t, "udp", "one", 10000, 29000)
	require.ErrorIs(t, labtest.NoAnswer(t, r.top.Client, "udp", at(r.top.Host.V4, 20000)), unix.ECONNREFUSED)
	r.fewFiles(t, mostDescriptors)
	held, err := occupy(r.top.Host, "udp", "0.0.0.0:20000")
	require.NoError(t, err)
	require.NoError(t, held.Close())
}

// fewFiles waits until the daemon has at most so many files open: sockets of commands that have ended are closed a
// little later.
func (r *rangeDaemon) fewFiles(t *testing.T, most int) {
	t.Helper()
	await(t, "the files to be closed", func() bool { return openBy(t, r.daemon.Pid) <= most })
}

// memory returns what the daemon has in memory that is of no file, in bytes.
func (r *rangeDaemon) memory(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.daemon.Pid))
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(status), "RssAnon:")
	require.True(t, found)
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(t, err)
	return n << 10
}

// Wide ranges are published, changed, adopted, handed over, restored and removed by the command line, as single ports
// are, and cost no more.
func TestRangesOfDaemon(t *testing.T) {
	for _, loopback := range []string{"bpf", "proxy"} {
		t.Run(loopback, func(t *testing.T) {
			r := newRangeDaemon(t, loopback)
			r.start(t)
			for range 3 { // what a daemon has used once, it keeps
				r.succeed(t, "add --quiet udp 61000-62999 172.30.0.2")
				r.succeed(t, "add --quiet tcp 61000-62999 172.30.0.2")
				r.leads1(t)
				r.succeed(t, "rm --quiet udp 61000-62999")
				r.succeed(t, "rm --quiet tcp 61000-62999")
			}
			descriptors, memory := openBy(t, r.daemon.Pid), r.memory(t)
			r.succeed(t, "add --quiet udp 10000-29000 172.30.0.2 --name rtp")
			r.succeed(t, "add --quiet tcp 10000-60000 172.30.0.2")
			grown := r.memory(t) - memory
			t.Logf("%d KiB more, of %d; %d descriptors, of %d before", grown>>10, memory>>10, openBy(t, r.daemon.Pid), descriptors)
			require.LessOrEqual(t, grown, mostMemory)
			r.leads(t, "udp", "one", 10000, 20000, 29000)
			r.leads(t, "tcp", "one", 10000, 20000, 60000)
			r.succeed(t, "add --quiet tcp 20000 172.30.0.3 --replace")
			r.succeed(t, "rm --quiet udp 20000")
			r.check(t)
			r.refusals(t)
			exported, elements := r.export(t), sortedElements(t, r.top.Host)
			same := func() {
				t.Helper()
				require.Equal(t, exported, r.export(t))
				require.Equal(t, elements, sortedElements(t, r.top.Host))
				r.check(t)
			}

			r.daemon.Kill()
			labtest.Reaches(t, r.top.Client, "udp", at(r.top.Host.V4, 29000), "one:29000")
			r.start(t)
			same()
			last := r.daemon
			r.start(t, "--takeover")
			require.Zero(t, last.Wait(), last.Output())
			require.NotContains(t, last.Output()+r.daemon.Output(), "has no proxy")
			same()
			r.reboot(t, r.daemon)
			r.start(t)
			require.Contains(t, r.daemon.Output(), "nftnat: restored the stored state")
			require.Equal(t, exported, r.export(t))
			r.check(t)

			file := filepath.Join(t.TempDir(), "ranges.yaml")
			require.NoError(t, os.WriteFile(file, []byte(exported), 0o600))
			require.Empty(t, r.succeed(t, "apply --dry-run -f "+file))
			require.NoError(t, os.WriteFile(file, []byte("mappings: []\n"), 0o600))
			r.succeed(t, "apply -f "+file)
			require.ErrorIs(t, labtest.NoAnswer(t, r.top.Client, "udp", at(r.top.Host.V4, 10000)), unix.ECONNREFUSED)
			require.NoError(t, os.WriteFile(file, []byte(exported), 0o600))
			r.succeed(t, "apply -f "+file)
			require.Equal(t, exported, r.export(t))
			r.check(t)

			r.succeed(t, "add --quiet tcp 20000 172.30.0.2 --replace")
			r.succeed(t, "add --quiet udp 20000 172.30.0.2 --name rtp")
			require.Regexp(t, `(?m)^tcp +10000-60000 .*\n?udp +10000-29000 .*$`, r.succeed(t, "ls"))
			r.succeed(t, "rm --quiet tcp 10000-60000")
			r.succeed(t, "rm --quiet udp 10000-29000")
			r.fewFiles(t, descriptors)
			require.Empty(t, sortedElements(t, r.top.Host))
			for _, network := range []string{"tcp", "udp"} {
				held, err := occupy(r.top.Host, network, "0.0.0.0:20000")
				require.NoError(t, err)
				require.NoError(t, held.Close())
			}
		})
	}
}

// leads1 asks a port, so that the daemon has served one.
func (r *rangeDaemon) leads1(t *testing.T) {
	t.Helper()
	_, err := r.top.Host.Dial(t.Context(), "udp", "127.0.0.1:61000")
	require.NoError(t, err)
}

// refusals require that bad ranges are refused in one line, and change nothing.
func (r *rangeDaemon) refusals(t *testing.T) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "bad.yaml")
	list := func() string { return nft(t, r.top.Host, "list", "table", "inet", "nftnat") }
	before := list()
	refused := func(line string, code int, says string) {
		t.Helper()
		got := r.run(t, line)
		require.Equal(t, code, got.Code, got.Stderr)
		require.Equal(t, "nftnat: "+strings.ReplaceAll(says, "$FILE", file)+"\n", got.Stderr)
		require.Equal(t, before, list())
	}
	const low = "tcp 10000-19999 is published as 10000-19999->172.30.0.2:10000-19999"
	refused("add tcp 9000-11000 172.30.0.3", 3, "publish tcp 9000-11000: "+low)
	refused("add tcp 9000-11000 172.30.0.3:1000-3000", 3, "publish tcp 9000-11000: "+low)
	refused("add udp 192.0.2.1:25000-35000 172.30.0.2", 3,
		`publish udp 192.0.2.1:25000-35000: udp 20001-29000 is published as 20001-29000->172.30.0.2:20001-29000/udp by "rtp"`)
	refused("add tcp 61000-62000 172.30.0.2:61000-61999", 2, `invalid backend "172.30.0.2:61000-61999": ranges of unequal length: frontend 61000-62000 has 1001 ports, the backend 1000`)
	refused("add tcp 62000-61000 172.30.0.2", 2, `invalid frontend "62000-61000": the range ends before it begins`)
	require.NoError(t, os.WriteFile(file, []byte("mappings: [61000-62000->172.30.0.2:61000-62000, 62000-63000->172.30.0.3:62000-63000]\n"), 0o600))
	refused("apply -f "+file, 2, "$FILE:1: mappings 61000-62000->172.30.0.2:61000-62000 and 62000-63000->172.30.0.3:62000-63000 overlap: both claim tcp port 62000 (the first is in line 1)")

	// As many ranges of one address as there may be, and a further one that is too wide for single ports.
	var many strings.Builder
	_, published, found := strings.Cut(strings.TrimSuffix(r.succeed(t, "export"), "...\n"), "mappings:\n")
	require.True(t, found)
	many.WriteString("mappings:\n" + published)
	for i := range 128 {
		fmt.Fprintf(&many, "  - 192.0.2.1:%d-%[2]d->172.30.0.2:%[1]d-%[2]d/udp\n", 30000+10*i, 30001+10*i)
	}
	require.NoError(t, os.WriteFile(file, []byte(many.String()), 0o600))
	r.succeed(t, "apply -f "+file)
	before = list()
	const wide = "udp 192.0.2.1:32000-33024"
	const says = wide + " would be one of more than 128 ranges of one address"
	refused("add "+wide+" 172.30.0.2", 3, "publish "+wide+": "+says)
	many.WriteString("  - 192.0.2.1:32000-33024->172.30.0.2:32000-33024/udp\n")
	require.NoError(t, os.WriteFile(file, []byte(many.String()), 0o600))
	refused("apply -f "+file, 3, "apply 0 networks, 0 endpoints and 134 mappings: "+says)
	r.succeed(t, "add --quiet udp 192.0.2.1:29995-35000 172.30.0.2 --replace")
	require.Equal(t, 1, strings.Count(strings.Join(sortedElements(t, r.top.Host), "\n"), "udp4_host_range "))
	r.succeed(t, "rm --quiet udp 192.0.2.1:29995-35000")
}

// A port that is given to another backend and comes back to its range gives up the socket that it had of its own, with no moment in which
// another program can bind it.
func TestPortReturnsToRange(t *testing.T) {
	r := newRangeDaemon(t, "bpf")
	r.start(t)
	for _, network := range []string{"tcp", "udp"} {
		r.succeed(t, "add --quiet "+network+" 10000-29000 172.30.0.2")
	}
	before := openBy(t, r.daemon.Pid)
	taker := startTask(t, func(i int64) error {
		network, options := []string{"tcp", "udp"}[i%2], []int{unix.SO_REUSEADDR}
		address := []string{"0.0.0.0:20000", "[::]:20000", "127.0.0.1:20000"}[i%3]
		held, err := occupy(r.top.Host, network, address, options...)
		if err == nil {
			return fmt.Errorf("somebody got %s %s: %w", network, address, held.Close())
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return err
		}
		return nil
	})
	for range 20 {
		for _, suffix := range []string{"", "/udp"} {
			for _, backend := range []string{"172.30.0.3", "172.30.0.2"} {
				_, err := r.api.Publish(t.Context(), nat.PublishOptions{Replace: true}, nattest.Mapping(t, "20000->"+backend+":20000"+suffix))
				require.NoError(t, err)
			}
		}
	}
	t.Logf("another program tried %d times", taker.end(t))
	r.fewFiles(t, before)
	r.leads(t, "tcp", "one", 20000)
	r.leads(t, "udp", "one", 20000)
}
