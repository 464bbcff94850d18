// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// connect gives the host connections, each as its address and that of a client.
func (b *testbed) connect(pairs ...string) {
	for i := 0; i < len(pairs); i += 2 {
		b.connections = append(b.connections, hostnet.Connection{Local: netip.MustParseAddrPort(pairs[i]), Peer: netip.MustParseAddrPort(pairs[i+1])})
	}
}

// servers are the ends of the flows over TCP that are known, in order.
func (b *testbed) servers() (ends []string) {
	for _, f := range b.flows.flows {
		if f.Proto == uint8(nat.TCP) {
			ends = append(ends, f.Dst.String())
		}
	}
	slices.Sort(ends)
	return ends
}

func sharedPort(tb testing.TB, text string) nat.Mapping {
	tb.Helper()
	m := nattest.Mapping(tb, text)
	m.Hold = nat.HoldShared
	return m
}

// What the host serves at a port is tracked when the table is there, and before the port is in it.
func TestConnectionsOfTheHost(t *testing.T) {
	client := "198.51.100.7:4000"
	b := newTestbed()
	b.connect(local4+":8080", client, local4+":8081", client, otherLocal4+":8080", client, "["+local6+"]:8080", "[2001:db8:9::7]:4000",
		"127.0.0.1:8080", "127.0.0.1:4000", local4+":8095", client)
	var order []string
	watch := func() {
		order = nil
		note := func(op string) error {
			if op == "Restore" || op == "Update" {
				order = append(order, op)
			}
			return nil
		}
		b.kernel.Hook(note)
		b.flows.hook = func(op string) error {
			if op == "Create" {
				order = append(order, "track")
			}
			return nil
		}
	}
	e := b.open(t)
	watch()
	publish(t, e, "8080->172.30.0.2:80")
	require.Equal(t, []string{"Restore", "track", "Update"}, order, "as tracking has begun, and before packets are led")
	require.Equal(t, []string{local4 + ":8080", otherLocal4 + ":8080"}, b.servers())

	// With the table there, connections at ports that are held have been tracked.
	watch()
	asked := len(b.asked)
	publish(t, e, "8081->172.30.0.2:80", "8090-8099->172.30.0.2:8090-8099")
	require.Equal(t, []string{"Update"}, order)
	require.Len(t, b.asked, asked)
	// One that another program serves may have been idle for longer.
	b.flows.flows = nil
	b.connections = nil
	b.connect(local4+":8082", client, local4+":8085", client, "127.0.0.1:8085", "127.0.0.1:4000", local4+":8089", client)
	watch()
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, sharedPort(t, "8083-8087->172.30.0.2:8083-8087"), nattest.Mapping(t, "8082->172.30.0.2:80"))
	require.NoError(t, err)
	require.Equal(t, []string{"track", "Update"}, order)
	require.Equal(t, hostnet.PortRange{First: 8083, Last: 8087}, b.asked[len(b.asked)-1])
	require.Equal(t, []string{"127.0.0.1:8085", local4 + ":8085"}, b.servers())
	// Over UDP flows follow.
	watch()
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, sharedPort(t, "8083-8087->172.30.0.2:8083-8087/udp"))
	require.NoError(t, err)
	require.Equal(t, []string{"Update"}, order)
	requireConsistent(t, b, e)
}

// Without such connections a table is created as a whole.
func TestNoConnectionsOfTheHost(t *testing.T) {
	b := newTestbed()
	b.connect(local4+":8081", "198.51.100.7:4000", "["+local6+"]:8080", "[2001:db8:9::7]:4000")
	e := b.open(t)
	calls := map[string]int{}
	count := func(op string) error { calls[op]++; return nil }
	b.kernel.Hook(count)
	publish(t, e, "8080->172.30.0.2:80", "8081->172.30.0.2:80/udp", "[::1]:8081->[fd00:30::2]:80")
	require.Equal(t, 1, calls["Restore"])
	require.Zero(t, calls["Update"])
	require.Empty(t, b.servers())
}

// A table that somebody has flushed tracked nothing meanwhile, whether it is known or not.
func TestConnectionsAfterAnOutage(t *testing.T) {
	b := newTestbed()
	b.store = &memoryStore{}
	e := b.open(t)
	publish(t, e, "8080->172.30.0.2:80")
	b.connect(local4+":8080", "198.51.100.7:4000")
	for what, damage := range map[string]func() *Engine{
		"flushed":          func() *Engine { b.kernel.Flush(); return e },
		"flushed, and new": func() *Engine { b.kernel.Flush(); return b.open(t) },
		"damaged, and new": func() *Engine { b.edit(t, damages()["no rules"]); return b.open(t) },
	} {
		b.flows.flows = nil
		e = damage()
		publish(t, e, "0->172.30.0.3:80") // by which the first one notices
		require.Equal(t, []string{local4 + ":8080"}, b.servers(), what)
		require.Contains(t, publishedBy(e), "8080->172.30.0.2:80")
	}
}

// That connections cannot be listed, or not be tracked, is said and prevents nothing.
func TestConnectionsOfTheHostFail(t *testing.T) {
	for _, what := range []string{"list", "track"} {
		var log bytes.Buffer
		b := newTestbed()
		b.connect(local4+":8080", "198.51.100.7:4000")
		e := b.openWith(t, Options{NoSysctl: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if what == "list" {
			e.core.listConnections = func(hostnet.PortRange, func(hostnet.Connection)) error { return errors.New("no list") }
		} else {
			b.flows.hook = func(op string) error {
				if op == "Create" {
					return errors.New("no room")
				}
				return nil
			}
		}
		publish(t, e, "8080->172.30.0.2:80")
		require.Contains(t, log.String(), "connections that this host serves at published ports may be reset")
		requireConsistent(t, b, e)
	}
}

func TestLeads(t *testing.T) {
	for _, c := range []struct {
		mapping, local string
		shared, want   bool
	}{
		{"8080->172.30.0.2:80", local4 + ":8080", false, true},
		{"8080->172.30.0.2:80", "[" + local6 + "]:8080", false, false},
		{"8080->172.30.0.2:80", "[" + local6 + "]:8080", true, true},
		{"8080->172.30.0.2:80", "127.0.0.5:8080", false, false},
		{"8080->172.30.0.2:80", "127.0.0.5:8080", true, true},
		{"0.0.0.0:8080->172.30.0.2:80", local4 + ":8080", false, true},
		{"0.0.0.0:8080->172.30.0.2:80", "[" + local6 + "]:8080", true, false},
		{"[::]:8080->[fd00:30::2]:80", "[" + local6 + "]:8080", false, true},
		{"[::]:8080->[fd00:30::2]:80", local4 + ":8080", true, false},
		{local4 + ":8080->172.30.0.2:80", local4 + ":8080", false, true},
		{local4 + ":8080->172.30.0.2:80", otherLocal4 + ":8080", false, false},
	} {
		p := portset.Of(nattest.Mapping(t, c.mapping))
		if c.shared {
			p.Hold = nat.HoldShared
		}
		require.Equal(t, c.want, leads(&p, &hostnet.Connection{Local: netip.MustParseAddrPort(c.local)}), "%+v", c)
	}
}

func TestUntracked(t *testing.T) {
	at := hostnet.Connection{Local: netip.MustParseAddrPort(local4 + ":8080"), Peer: netip.MustParseAddrPort("198.51.100.7:4000")}
	want := conntrack.Connection{Client: at.Peer, Server: at.Local, State: conntrack.TCPEstablished}
	require.Equal(t, want, untracked(at))
	at.Opening, want.State = true, conntrack.TCPSynRecv
	require.Equal(t, want, untracked(at))
	at.Opening, at.Closing, want.State = false, true, conntrack.TCPFinWait
	require.Equal(t, want, untracked(at))
}
