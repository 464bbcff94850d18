// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// watch starts a watcher of the table nftnat, whose every call is a word to heard. It
// ends with the test.
func watch(t *testing.T, c *Conn) (heard chan struct{}) {
	t.Helper()
	heard = make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		ended <- c.Watch(ctx, "nftnat", func() {
			select {
			case heard <- struct{}{}:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
	<-heard // it listens
	return heard
}

// TestWatch: it hears of what others do to the table, and of nothing else.
func TestWatch(t *testing.T) {
	c, ns := kernel(t)
	require.NoError(t, c.Replace(sample(), ports(9, ""), 0))
	heard := watch(t, c)
	// None of this is about the table, or it is our own.
	require.NoError(t, c.Update(sample(), Change{Delete: ports(9, "")}))
	require.NoError(t, c.Replace(sample(), ports(1000, ""), 0))
	labtest.ExecInput(t, ns, "table ip nftnat { chain c {}; }; table inet other { map tcp4 { type inet_service : ipv4_addr; }; }", "nft", "-f", "-")
	labtest.Exec(t, ns, "nft", "delete", "table", "inet", "other")
	for _, script := range []string{
		"add element inet nftnat tcp4 { 2000 : 192.0.2.1 . 1 }",
		"delete element inet nftnat tcp4 { 2000 }",
		"add rule inet nftnat publish accept",
		"flush chain inet nftnat publish",
		"add chain inet nftnat x", "delete chain inet nftnat x",
		"add set inet nftnat x { type ipv4_addr; }", "delete set inet nftnat x",
		"add table inet nftnat { flags dormant; }",
		"delete table inet nftnat",
		"add table inet nftnat",
		"flush ruleset",
		// At the end of a transaction that began with others' tables.
		strings.Repeat("add table inet other\ndelete table inet other\n", 50) + "add table inet nftnat",
	} {
		labtest.ExecInput(t, ns, script, "nft", "-f", "-")
		<-heard // or the test hangs: each is heard
		select {
		case <-heard:
			t.Fatalf("heard twice: %.60s", script)
		default:
		}
	}
	require.NoError(t, c.Close())
	require.ErrorIs(t, c.Watch(t.Context(), "nftnat", func() {}), os.ErrClosed)
}

// TestWatchOverrun: where more has happened than the socket can keep, it might have
// been about the table.
func TestWatchOverrun(t *testing.T) {
	c, ns := kernel(t)
	other := dialIn(t, ns)
	w, err := c.openWatcher(1) // the kernel makes it as small as it can be
	require.NoError(t, err)
	busy, free, ended := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		ended <- w.run("nftnat", func() {
			busy <- struct{}{}
			<-free
		})
	}()
	<-busy
	for range 100 {
		require.NoError(t, other.Replace(Table{Name: "other"}, nil, 0))
	}
	free <- struct{}{}
	<-busy // something was lost
	close(free)
	go func() { // and it goes on; that it has lost something it may say again
		for range busy {
		}
	}()
	heard := watch(t, c)
	require.NoError(t, other.Replace(Table{Name: "nftnat"}, nil, 0))
	<-heard
	require.NoError(t, w.Close())
	require.Error(t, <-ended)
	close(busy)
}

func TestConcernsDamaged(t *testing.T) {
	about, generation := concerns([]byte{1, 2, 3}, "nftnat")
	require.True(t, about, "who knows")
	require.Zero(t, generation)
	about, _ = concerns(nil, "nftnat")
	require.False(t, about)
}
