// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

func TestConnections(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "80-81->172.30.0.2:80-81", local4+":82->172.30.0.3:82", "0.0.0.0:53->172.30.0.2:53/udp", "90->172.30.0.2:90")
	translated := func(proto nat.Proto, dst, backend string) conntrack.Flow {
		f := flow(proto, dst, backend)
		f.Status |= conntrack.StatusDNAT
		return f
	}
	b.flows.flows = []conntrack.Flow{
		translated(nat.TCP, otherLocal4+":80", "172.30.0.2:80"), translated(nat.TCP, otherLocal4+":80", "172.30.0.2:80"),
		translated(nat.TCP, local4+":80", "172.30.0.2:80"),
		translated(nat.TCP, local4+":82", "172.30.0.3:82"),
		translated(nat.TCP, otherLocal4+":82", "172.30.0.3:82"), // another table's
		translated(nat.TCP, local4+":81", "172.30.0.9:81"),      // to a former backend
		translated(nat.UDP, local4+":53", "172.30.0.2:53"),
		flow(nat.TCP, local4+":90", local4+":90"), // not translated: the host's own, or a proxy's client
	}
	want := []nat.Connections{
		{Mapping: nattest.Mapping(t, "80->172.30.0.2:80"), Translated: 3},
		{Mapping: nattest.Mapping(t, local4+":82->172.30.0.3:82"), Translated: 1},
		{Mapping: nattest.Mapping(t, "0.0.0.0:53->172.30.0.2:53/udp"), Translated: 1},
	}
	have, err := e.Connections(t.Context())
	require.NoError(t, err)
	require.Equal(t, want, have)

	failure := errors.New("no")
	b.flows.hook = func(string) error { return failure }
	_, err = e.Connections(t.Context())
	require.ErrorIs(t, err, failure)
	b.flows.hook = nil
	require.NoError(t, e.Close())
	_, err = e.Connections(t.Context())
	require.ErrorIs(t, err, nat.ErrClosed)
}

// 60,000 mappings and as many flows to them.
func BenchmarkConnections(b *testing.B) {
	bed := newTestbed()
	e := bed.openWith(b, Options{NoSysctl: true})
	m := nattest.Mapping(b, "1-60000->172.30.0.2:1-60000")
	_, err := e.Publish(b.Context(), nat.PublishOptions{}, m)
	require.NoError(b, err)
	for port := range 60000 {
		f := conntrack.Flow{Proto: uint8(nat.TCP), Status: conntrack.StatusDNAT}
		f.Dst = netip.AddrPortFrom(netip.MustParseAddr(local4), uint16(port+1))
		f.ReplySrc = netip.AddrPortFrom(netip.MustParseAddr("172.30.0.2"), uint16(port+1))
		bed.flows.flows = append(bed.flows.flows, f)
	}
	for b.Loop() {
		if _, err := e.Connections(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// An engine that is closed while the flows are read says so.
func TestConnectionsWhileClosing(t *testing.T) {
	e, b := openFake(t)
	b.flows.hook = func(string) error { return errors.Join(os.ErrClosed, e.Close()) }
	_, err := e.Connections(t.Context())
	require.ErrorIs(t, err, nat.ErrClosed)
}
