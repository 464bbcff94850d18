// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest_test

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func TestLeakCheck(t *testing.T) {
	labtest.LongOnly(t, "20 s for leaks to go away, which they do not")
	release := make(chan struct{})
	ended := make(chan struct{})
	text, how := record(t, func(tb testing.TB) {
		tb.Helper()
		labtest.LeakCheck(tb)
		go leakyWait(release, ended)
	})
	require.Equal(t, failed, how)
	require.Contains(t, text, "leaked goroutine")
	require.Contains(t, text, "leakyWait")
	close(release)
	<-ended

	var f *os.File
	text, how = record(t, func(tb testing.TB) {
		tb.Helper()
		labtest.LeakCheck(tb)
		var err error
		f, err = os.Open("/proc/self/status")
		require.NoError(t, err)
	})
	require.Equal(t, failed, how)
	require.Contains(t, text, "leaked descriptor")
	require.Contains(t, text, "/status")
	require.NoError(t, f.Close())
}

func leakyWait(release, ended chan struct{}) {
	defer close(ended)
	<-release
}

// What ends a little later, or in the test's own clean-up, has not leaked.
func TestLeakCheckWaits(t *testing.T) {
	text, how := record(t, func(tb testing.TB) {
		tb.Helper()
		labtest.LeakCheck(tb)
		go time.Sleep(30 * time.Millisecond)
		f, err := os.Open("/proc/self/status")
		require.NoError(t, err)
		tb.Cleanup(func() { _ = f.Close() })
	})
	require.Equal(t, passed, how, text)
}

// What was there before is not this test's business.
func TestLeakCheckOthers(t *testing.T) {
	release, ended := make(chan struct{}), make(chan struct{})
	go leakyWait(release, ended)
	text, how := record(t, labtest.LeakCheck)
	close(release)
	<-ended
	require.Equal(t, passed, how, text)
}
