// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// Connections that a backend has not answered follow a replacement with their next SYN, and
// are not let in after a removal, by netfilter and by proxies.
func TestOpeningConnections(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	for _, b := range []*lab.NS{top.Backend1, top.Backend2} {
		labtest.EchoTCP(t, b, b.Name(), ":80")
	}
	const mute = "table inet mute { chain input { type filter hook input priority 0; tcp dport 80 drop; }; }"
	load(t, top.Backend1, mute)
	e, err := engine.Open(t.Context(), engine.Options{NetNS: top.Host.Path(), NoOwner: true, Loopback: engine.LoopbackProxy})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })

	// Each has two frontends: what waits at the first is replaced, at the second removed.
	type waiting struct{ replaced, removed <-chan string }
	var all []waiting
	var replacements, removals []nat.Mapping
	port := 8100
	for _, f := range families(top) {
		loopback := loopback4
		if f.bits == 128 {
			loopback = loopback6
		}
		for _, way := range []struct {
			from         *lab.NS
			frontend, to netip.Addr
		}{
			{top.Client, f.wildcard, f.host}, {top.Client, f.host, f.host},
			{top.Host, f.wildcard, f.host}, {top.Host, f.wildcard, loopback}, {top.Host, loopback, loopback},
		} {
			var w waiting
			for _, waits := range []*<-chan string{&w.replaced, &w.removed} {
				port++
				publish(t, e, toward(way.frontend, port, port)+"->"+at(f.backend1, 80))
				*waits = connects(t, way.from, at(way.to, port))
			}
			all = append(all, w)
			replacements = append(replacements, mappings(t, toward(way.frontend, port-1, port-1)+"->"+at(f.backend2, 80))...)
			removals = append(removals, mappings(t, toward(way.frontend, port, port)+"->"+at(f.backend1, 80))...)
		}
	}
	// Those of clients, and those of proxies to the backend itself.
	await(t, "connections", func() bool {
		n := 0
		for _, family := range []string{"ipv4", "ipv6"} {
			n += strings.Count(labtest.Exec(t, top.Host, "conntrack", "-L", "-f", family, "-p", "tcp"), "UNREPLIED")
		}
		return n == 2*len(all)
	})
	_, err = e.Publish(t.Context(), nat.PublishOptions{Replace: true}, replacements...)
	require.NoError(t, err)
	_, err = e.Remove(t.Context(), nat.Removal{Mappings: removals})
	require.NoError(t, err)
	nft(t, top.Backend1, "delete", "table", "inet", "mute")
	for i, w := range all {
		require.Equal(t, "backend2", <-w.replaced, "%s", replacements[i])
		require.Empty(t, <-w.removed, "%s", removals[i])
	}
}

// connects begins a connection and returns who answers it, if anybody does by the third SYN,
// which is sent after three seconds.
func connects(t *testing.T, ns *lab.NS, addr string) <-chan string {
	t.Helper()
	done := make(chan string, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
		defer cancel()
		name, _, _ := lab.Ask(ctx, ns, "tcp", addr, netip.AddrPort{})
		done <- name
	}()
	return done
}
