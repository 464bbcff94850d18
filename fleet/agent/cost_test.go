// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/fleet/agent"
	"github.com/nftnat/nftnat/fleet/desired"
	"github.com/nftnat/nftnat/fleet/internal/etcdtest"
	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// TestCost measures how long a change of one mapping among many takes until it is in the kernels of all
// hosts: namespaces with a real daemon each. Agents are goroutines of this process, but for one.
//
//	NFTNAT_FLEET_HOSTS=100 NFTNAT_FLEET_MAPPINGS=10000 NFTNAT_FLEET_CHANGES=200 go test -run TestCost -v ./agent
func TestCost(t *testing.T) {
	hosts, mappings, changes := labtest.Number(t, "NFTNAT_FLEET_HOSTS", 5), labtest.Number(t, "NFTNAT_FLEET_MAPPINGS", 1000), labtest.Number(t, "NFTNAT_FLEET_CHANGES", 20)
	c := etcdtest.New(t, etcdtest.Options{Hosts: hosts})
	program, fleetProgram := build(t)
	dir, err := os.MkdirTemp("/run", "cost")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	options := func(ns *lab.NS) store.Options {
		return store.Options{Endpoints: c.Endpoints, Dial: func(ctx context.Context, address string) (net.Conn, error) { return ns.Dial(ctx, "tcp", address) }}
	}
	operator, err := store.Open(t.Context(), options(c.Client))
	require.NoError(t, err)
	t.Cleanup(func() { _ = operator.Close() })
	var s nat.State
	for i := range mappings {
		m, err := nat.ParseMappingText(fmt.Sprintf("%d->%s:%d", 1000+i, c.Client.V4, 1000+i%1000))
		require.NoError(t, err)
		m.Name, m.Hold, m.NoProxy = fmt.Sprintf("m%d", i), nat.HoldShared, true
		s.Mappings = append(s.Mappings, m)
	}
	values, err := desired.Values(keys.All(), s)
	require.NoError(t, err)
	_, revision, err := desired.Write(t.Context(), operator, keys.All(), values, desired.WriteOptions{By: "test"})
	require.NoError(t, err)

	watchers := make([]*kernelWatch, hosts)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, hosts)
	t.Cleanup(func() {
		cancel()
		for range hosts - 1 {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Log(err)
			}
		}
	})
	var pid int
	for i, ns := range c.Hosts {
		socket := filepath.Join(dir, strconv.Itoa(i))
		labtest.Start(t, ns, program, "serve", "--socket", socket, "--loopback", "proxy")
		if i == 0 {
			cmd := exec.Command(fleetProgram, "agent", "--host", "h0", "--socket", socket, "--listen", "", "--state-dir", "", "--endpoints", strings.Join(c.Endpoints, ","))
			labtest.StartCmd(t, ns, cmd)
			pid = cmd.Process.Pid
			continue
		}
		o := agent.Options{Store: options(c.Client), Host: fmt.Sprintf("h%d", i), Daemon: api.NewClient(socket)}
		go func() { ended <- agent.Run(ctx, o) }()
	}
	begun := time.Now()
	applied := func(revision int64) int {
		snap, err := operator.List(t.Context(), keys.Statuses)
		if err != nil {
			t.Log(err) // a hundred daemons start on one machine
		}
		n := 0
		for _, e := range snap.Entries {
			if st, err := keys.ParseStatus(e.Value); err == nil && st.Revision >= revision && st.Mappings == mappings {
				n++
			}
		}
		return n
	}
	for applied(revision) != hosts {
		require.Less(t, time.Since(begun), 10*time.Minute)
		time.Sleep(time.Second)
	}
	t.Logf("%d mappings in the kernels of %d hosts after %.1f s", mappings, hosts, time.Since(begun).Seconds())
	for i, ns := range c.Hosts {
		watchers[i] = watchKernel(t, ns)
	}

	var took, first []time.Duration
	for i := range changes {
		time.Sleep(200 * time.Millisecond)
		for _, w := range watchers {
			w.drain()
		}
		item := keys.Item{Kind: keys.KindMapping, Name: fmt.Sprintf("m%d", i%mappings)}
		m := s.Mappings[i%mappings]
		m.Backend = netip.AddrPortFrom(m.Backend.Addr(), uint16(3000+i))
		sent := time.Now()
		_, _, err := operator.Commit(t.Context(), nil, clientv3.OpPut(operator.Key(item.Key()), keys.FormatMappings([]nat.Mapping{m})))
		require.NoError(t, err)
		var last, soonest time.Duration
		for _, w := range watchers {
			at := w.next(t)
			last = max(last, at.Sub(sent))
			if d := at.Sub(sent); soonest == 0 || d < soonest {
				soonest = d
			}
		}
		took, first = append(took, last), append(first, soonest)
	}
	slices.Sort(took)
	slices.Sort(first)
	at := func(ds []time.Duration, p int) time.Duration {
		return ds[min(len(ds)*p/100, len(ds)-1)].Round(100 * time.Microsecond)
	}
	t.Logf("change to the kernels of all %d hosts: p50 %s p99 %s max %s; to the first: p50 %s", hosts, at(took, 50), at(took, 99), at(took, 100), at(first, 50))

	// Idle: what one agent sends, and what it has resident.
	time.Sleep(5 * time.Second) // the doctor
	before := sentBytes(t, c.Hosts[0])
	_, cursor, err := operator.Commit(t.Context(), nil, clientv3.OpDelete(operator.Key("nothing")))
	require.NoError(t, err)
	time.Sleep(10 * time.Second)
	after := sentBytes(t, c.Hosts[0])
	_, cursor2, err := operator.Commit(t.Context(), nil, clientv3.OpDelete(operator.Key("nothing")))
	require.NoError(t, err)
	require.Equal(t, cursor, cursor2, "idle agents write nothing")
	rss := resident(t, pid)
	t.Logf("idle agent: %d bytes/s sent; agent resident %.1f MiB", (after-before)/10, rss)
	if hosts >= 100 {
		require.Less(t, at(took, 99), time.Second)
	}
	require.Less(t, rss, 24.0)
}

// kernelWatch has when a kernel told of elements of nftables.
type kernelWatch struct {
	fd   int
	told chan time.Time
}

func watchKernel(t *testing.T, ns *lab.NS) *kernelWatch {
	t.Helper()
	w := &kernelWatch{told: make(chan time.Time, 1000)}
	require.NoError(t, ns.Do(func() (err error) {
		if w.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}); err != nil {
			return err
		}
		return unix.Bind(w.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		var b [1 << 16]byte
		for ctx.Err() == nil {
			if _, _, err := unix.Recvfrom(w.fd, b[:], 0); err == nil {
				select {
				case w.told <- time.Now():
				default:
				}
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done; _ = unix.Close(w.fd) })
	return w
}

func (w *kernelWatch) drain() {
	for {
		select {
		case <-w.told:
		default:
			return
		}
	}
}

func (w *kernelWatch) next(t *testing.T) time.Time {
	t.Helper()
	select {
	case at := <-w.told:
		return at
	case <-time.After(labtest.Stretch(20 * time.Second)):
		require.FailNow(t, "the kernel tells nothing")
		return time.Time{}
	}
}

// sentBytes are those that left a namespace.
func sentBytes(t *testing.T, ns *lab.NS) (sum int) {
	t.Helper()
	require.NoError(t, ns.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/dev")
		for line := range strings.Lines(string(text)) {
			name, counters, ok := strings.Cut(strings.TrimSpace(line), ":")
			if fields := strings.Fields(counters); ok && name != "lo" && len(fields) > 8 {
				n, _ := strconv.Atoi(fields[8])
				sum += n
			}
		}
		return err
	}))
	return sum
}

// resident is the memory of a process, in MiB.
func resident(t *testing.T, pid int) float64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.Atoi(strings.Fields(rest)[0])
			return float64(n) / 1024
		}
	}
	require.FailNow(t, "no VmRSS")
	return 0
}
