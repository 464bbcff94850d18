// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// A daemon says when the table was created. No daemon that serves it later says otherwise, however the one before it ended; a
// table that was lost meanwhile is another one.
func TestTableCreated(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	created := func() int64 {
		d, err := s.api.Daemon(t.Context())
		require.NoError(t, err)
		return d.Created
	}
	booted := func() int64 {
		var now unix.Timespec
		require.NoError(t, unix.ClockGettime(unix.CLOCK_BOOTTIME, &now))
		return now.Nano() / int64(time.Second)
	}
	daemon := s.serve(t)
	require.Zero(t, created())
	before := booted()
	s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80")
	first := created()
	require.GreaterOrEqual(t, first, before)
	require.LessOrEqual(t, first, booted())

	next := s.serve(t, "--takeover")
	require.Equal(t, first, created())
	require.Zero(t, daemon.Wait())
	require.NoError(t, next.Signal(unix.SIGKILL))
	next.Wait()
	daemon = s.serve(t)
	require.Equal(t, first, created())
	end := func() {
		require.NoError(t, daemon.Signal(unix.SIGTERM))
		require.Zero(t, daemon.Wait())
	}
	end()
	s.succeed(t, "--direct add --quiet tcp 8081 172.30.0.2:80")
	daemon = s.serve(t)
	require.Equal(t, first, created())

	end()
	labtest.Exec(t, top.Host, "nft", "delete", "table", "inet", "nftnat")
	await(t, "the next second", func() bool { return booted() > first })
	s.serve(t)
	require.Zero(t, created())
	s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80")
	require.Greater(t, created(), first)
}
