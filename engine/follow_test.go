// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/hairpin"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/nat"
)

// follows calls follow, and returns the messages of its events and the number of its
// transactions.
func follows(t *testing.T, e *Engine, b *testbed) (messages []string, transactions int) {
	t.Helper()
	b.kernel.Hook(func(op string) error {
		if op == "Update" || op == "Restore" {
			transactions++
		}
		return nil
	})
	defer b.kernel.Hook(nil)
	before := e.core.log
	defer func() { e.core.log = before }()
	var log bytes.Buffer
	e.core.log = slog.New(slog.NewTextHandler(&log, nil))
	require.NoError(t, e.core.follow(t.Context()))
	for line := range bytes.Lines(log.Bytes()) {
		messages = append(messages, string(line))
	}
	return messages, transactions
}

// Following a host that has not changed does nothing.
func TestFollowNothing(t *testing.T) {
	b := newTestbed()
	b.kernelWith(t, true)
	e := b.openWith(t, Options{})
	publish(t, e, "80->172.30.0.2:80", "81->[fd00:30::2]:80", local4+":82->172.30.0.2:80/udp")
	before := b.kernel.Dump()
	for range 2 {
		messages, transactions := follows(t, e, b)
		require.Empty(t, messages)
		require.Zero(t, transactions)
	}
	require.Equal(t, before, b.kernel.Dump())
}

// What others turn off is turned on, and said once.
func TestFollowForwarding(t *testing.T) {
	b := newTestbed()
	b.kernelWith(t, true)
	e := b.openWith(t, Options{})
	publish(t, e, "80->172.30.0.2:80")
	b.writeSysctl(t, forwarding4, "0")
	require.Len(t, e.core.warnings(nil), 1)
	messages, _ := follows(t, e, b)
	require.Len(t, messages, 1)
	require.Contains(t, messages[0], forwarding4+" is 0, and is 1 now")
	require.Empty(t, e.core.warnings(nil))
	messages, _ = follows(t, e, b)
	require.Empty(t, messages)
	require.Equal(t, 1, e.core.events.counts.Host)
}

// An engine opens although the host cannot be looked at, and says so.
func TestFollowFails(t *testing.T) {
	b := newTestbed()
	publish(t, b.open(t), "80->172.30.0.2:80")
	cause := errors.New("no luck")
	b.host.hook = func(string) error { return cause }
	var log bytes.Buffer
	e := b.openWith(t, Options{NoSysctl: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
	require.Contains(t, log.String(), "no luck")
	require.ErrorIs(t, e.core.follow(t.Context()), cause)
	b.host.hook = nil
	require.NoError(t, e.core.follow(t.Context()))
}

// Flows that could not be ended after a change of the host end with the next look.
func TestFollowEndsFlowsAgain(t *testing.T) {
	address := netip.MustParseAddr(local4)
	toBackend := flow(nat.UDP, local4+":80", "172.30.0.2:81")
	toBackend.Status = conntrack.StatusDNAT
	toHost := flow(nat.UDP, local4+":80", local4+":80")
	left := conntrack.Flow{
		Proto: uint8(nat.UDP), Src: netip.MustParseAddrPort("172.30.0.2:81"), Dst: netip.MustParseAddrPort("198.51.100.1:9"),
		ReplySrc: netip.MustParseAddrPort("198.51.100.1:9"), ReplyDst: netip.MustParseAddrPort(local4 + ":80"),
	}
	leaves := func(b *testbed) {
		b.host.interfaces[1].Addrs = nil
		delete(b.host.routes, netip.PrefixFrom(address, 32))
	}
	comes := func(b *testbed) {
		b.host.interfaces[1].Addrs = []netip.Addr{address}
		b.host.routes[netip.PrefixFrom(address, 32)] = hostnet.Route{Kind: hostnet.Local}
	}
	for name, tt := range map[string]struct {
		flow          conntrack.Flow
		before, after func(*testbed)
	}{
		"address gone":  {toBackend, comes, leaves},
		"address come":  {toHost, leaves, comes},
		"exit gone":     {left, comes, leaves},
		"route changed": {toBackend, comes, func(b *testbed) { b.host.onLink("br7", inside4) }},
	} {
		t.Run(name, func(t *testing.T) {
			e, b := openMasqueraded(t)
			tt.before(b)
			publish(t, e, local4+":80->172.30.0.2:81/udp")
			e.core.watching = true
			require.NoError(t, e.core.follow(t.Context()))
			b.flows.flows = []conntrack.Flow{tt.flow}
			require.NoError(t, e.core.follow(t.Context()))
			require.NotEmpty(t, b.flows.flows)
			tt.after(b)
			cause := errors.New("no luck")
			b.flows.hook = func(string) error { return cause }
			for range 2 {
				require.ErrorIs(t, e.core.follow(t.Context()), cause)
			}
			b.flows.hook = nil
			require.NoError(t, e.core.follow(t.Context()))
			require.Empty(t, b.flows.flows)
		})
	}
}

// When changes are lost, flows to addresses that nobody knows of end too.
func TestFollowMissed(t *testing.T) {
	b := newTestbed()
	e := b.open(t)
	publish(t, e, "80->172.30.0.2:81/udp")
	e.core.watching = true
	require.NoError(t, e.core.follow(t.Context()))
	elsewhere := flow(nat.UDP, "203.0.113.5:80", "172.30.0.2:81")
	elsewhere.Status = conntrack.StatusDNAT
	b.flows.flows = []conntrack.Flow{elsewhere}
	require.NoError(t, e.core.follow(t.Context()))
	require.Len(t, b.flows.flows, 1)
	e.core.noteChanges(hostnet.Changes[hairpin.Event]{Lost: true})
	require.NoError(t, e.core.follow(t.Context()))
	require.Empty(t, b.flows.flows)
	require.False(t, e.core.missed)
}

// The pause after a look is at least followPause, and at most the longest, however long the
// look took.
func TestFollowPauses(t *testing.T) {
	b := newTestbed()
	e := b.open(t)
	w := &hostWatch{e: e}
	begin := time.Now()
	w.follow(t.Context())
	require.GreaterOrEqual(t, w.rested.Sub(begin), followPause)
	require.Nil(t, w.due)
	w.schedule(begin)
	require.NotNil(t, w.due)
	due := w.due
	w.schedule(begin)
	require.Equal(t, due, w.due, "one look for all changes until then")

	publish(t, e, "80->172.30.0.2:80")
	b.host.hook = func(string) error { return errors.New("no luck") }
	begin = time.Now()
	w.follow(t.Context())
	require.GreaterOrEqual(t, w.rested.Sub(begin), longestFollowPause)
	require.NotNil(t, w.due, "it is tried again")
	require.True(t, w.failed)
}

// A closed or reading engine follows nothing.
func TestFollowClosed(t *testing.T) {
	b := newTestbed()
	b.kernelWith(t, true)
	publish(t, b.openWith(t, Options{}), "80->172.30.0.2:80")
	b.writeSysctl(t, forwarding4, "0")
	reader := b.openWith(t, Options{ReadOnly: true})
	require.NoError(t, reader.core.follow(t.Context()))
	require.Len(t, reader.core.warnings(nil), 1)
	closed := b.openWith(t, Options{NoSysctl: true})
	require.NoError(t, closed.Close())
	require.NoError(t, closed.core.follow(t.Context()))
	require.Equal(t, "0", b.readSysctl(t, forwarding4))
	_, err := closed.Status(t.Context())
	require.ErrorIs(t, err, nat.ErrClosed)
}
