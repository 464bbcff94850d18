// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// childEnv makes the test binary another process: a backend, a load or a
// victim of a resource limit. Its value is the name of one of children.
const childEnv = "NFTNAT_PROXY_TEST_CHILD"

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" {
		if err := children[name](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// Package os raised the soft limit to the hard one already; where that
	// may be raised too, the tests of thousands of sockets can run.
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20})
	// In a namespace of their own: thousands of UDP flows take most of its ports.
	os.Exit(labtest.Main(m))
}

// openFDs counts this process's descriptors.
func openFDs() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	return len(entries)
}

// settled waits until there are no more goroutines and descriptors than before.
func settled(goroutines, fds int) bool {
	for range 500 {
		if runtime.NumGoroutine() <= goroutines && openFDs() <= fds {
			return true
		}
		runtime.GC() // package net keeps the pipes of io.Copy until then
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

// noLeak fails the test if it leaves goroutines or descriptors behind, those
// of its own cleanups not counted.
func noLeak(t *testing.T) {
	t.Helper()
	goroutines, fds := runtime.NumGoroutine(), openFDs()
	t.Cleanup(func() {
		require.True(t, settled(goroutines, fds), "left behind: %d goroutines, had %d; %d descriptors, had %d",
			runtime.NumGoroutine(), goroutines, openFDs(), fds)
	})
}

// serve opens p for the test's time.
func serve(tb testing.TB, p Proxy, err error) {
	tb.Helper()
	require.NoError(tb, err)
	require.NoError(tb, p.Open())
	tb.Cleanup(func() { require.NoError(tb, p.Close()) })
}

// deadline bounds every wait in the tests.
const deadline = time.Minute

// eventually waits for a condition that another goroutine or process brings
// about.
func eventually(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	for end := time.Now().Add(deadline); !cond(); time.Sleep(2 * time.Millisecond) {
		require.True(tb, time.Now().Before(end), "never happened: %s", what)
	}
}

func mustTCP(tb testing.TB, s string) *net.TCPAddr {
	tb.Helper()
	a, err := net.ResolveTCPAddr("tcp", s)
	require.NoError(tb, err)
	return a
}

func mustUDP(tb testing.TB, s string) *net.UDPAddr {
	tb.Helper()
	a, err := net.ResolveUDPAddr("udp", s)
	require.NoError(tb, err)
	return a
}
