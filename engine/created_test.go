// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nfttest"
)

// The second in which the table was created stays with it while its mappings do: it is repaired and recreated with it, whoever
// has it. A table that was lost is another one.
func TestCreated(t *testing.T) {
	e, b := openFake(t)
	require.Zero(t, e.Created())
	publish(t, e, "80->172.30.0.2:80")
	var now unix.Timespec
	require.NoError(t, unix.ClockGettime(unix.CLOCK_BOOTTIME, &now))
	require.InDelta(t, now.Sec, e.Created()/time.Second, 60)
	require.NotZero(t, e.Created())

	const second = 7 * time.Second
	tag := func(tag string) func(*nfttest.Table) { return func(table *nfttest.Table) { table.Tag = tag } }
	b.edit(t, tag("nOTHER.7"))
	b.owning = true
	e = b.open(t) // recreates the table to own it
	require.Equal(t, second, e.Created())
	kill(t, e)
	e = b.open(t)
	require.Equal(t, second, e.Created())
	require.NoError(t, e.Close()) // recreates it too
	b.owning = false
	e = b.open(t)
	require.Equal(t, second, e.Created())
	b.kernel.Flush()
	publish(t, e, "90->172.30.0.2:80") // which puts the table back
	require.Equal(t, []string{"80->172.30.0.2:80", "90->172.30.0.2:80"}, publishedBy(e))
	require.Equal(t, "nOTHER.7", b.table(t).Tag)
	require.Equal(t, second, e.Created())

	b.kernel.Flush()
	e = b.open(t)
	require.Zero(t, e.Created())
	publish(t, e, "80->172.30.0.2:80")
	require.Greater(t, e.Created(), second)
	for _, text := range []string{"", "nEARLIER", "nOTHER.", "nOTHER.x", "nOTHER.-7", "nOTHER.99999999999999999999", "12"} {
		b.edit(t, tag(text))
		require.Zero(t, b.open(t).Created(), text)
	}
}
