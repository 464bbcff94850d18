// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/netns"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// current names the network namespace of the calling thread.
func current(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink("/proc/thread-self/ns/net")
	require.NoError(t, err)
	return name
}

// TestDo: f runs in the namespace, its error is returned, and this process stays.
func TestDo(t *testing.T) {
	ns, err := os.Open(labtest.NewNS(t, "other").Path())
	require.NoError(t, err)
	defer func() { require.NoError(t, ns.Close()) }()
	before := current(t)
	failed := errors.New("failed")
	var there string
	err = netns.Do(int(ns.Fd()), func() error {
		there = current(t)
		return failed
	})
	require.Equal(t, failed, err)
	require.NotEqual(t, before, there)
	for range 100 {
		require.Equal(t, before, current(t))
		runtime.Gosched()
	}
}

// TestDoNotEntered: f does not run outside the namespace.
func TestDoNotEntered(t *testing.T) {
	file, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	err = netns.Do(int(file.Fd()), func() error { t.Error("f has run"); return nil })
	require.EqualError(t, err, "enter network namespace: invalid argument")
	require.ErrorIs(t, err, unix.EINVAL)
}

// TestFirstThreadStays: many calls at once, so that some goroutines begin on the first
// thread.
func TestFirstThreadStays(t *testing.T) {
	var wg sync.WaitGroup
	var wrong atomic.Int32
	for range 2000 {
		wg.Go(func() {
			netns.OnThread(func() {
				if unix.Gettid() == unix.Getpid() {
					wrong.Add(1)
				}
			})
		})
	}
	wg.Wait()
	require.Zero(t, wrong.Load())
}

// TestThreadEnds: a thread runs nothing after f, also if f ends its goroutine.
func TestThreadEnds(t *testing.T) {
	ended := make(map[int]bool)
	for range 20 {
		netns.OnThread(func() {
			tid := unix.Gettid()
			if ended[tid] {
				t.Errorf("thread %d runs a second function", tid)
			}
			ended[tid] = true
			runtime.Goexit()
		})
	}
}
