// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
	nftables "github.com/nftnat/nftnat/nft"
)

// churn is another program that changes its own table all the time. Each change is a new
// generation of all rulesets of the namespace.
type churn struct {
	conn    *nftables.Conn
	table   nftables.Table
	commits atomic.Int64
	stop    chan struct{}
	ended   sync.WaitGroup
	err     error // read it after ended
}

// churnRate is the number of changes a second: those of a busy kube-proxy.
const churnRate = 1000

func startChurn(t *testing.T, ns *lab.NS) *churn {
	t.Helper()
	s := &churn{stop: make(chan struct{}), table: nftables.Table{
		Name: "churn", Comment: "another program's",
		Sets: []nftables.Set{{Name: "tcp4", Key: nftables.Type{nftables.InetService}, Value: nftables.Type{nftables.IPv4Addr, nftables.InetService}}},
	}}
	require.NoError(t, ns.Do(func() (err error) {
		s.conn, err = nftables.Dial(nil)
		return err
	}))
	require.NoError(t, s.conn.Replace(s.table, nil, 0))
	s.ended.Go(s.run)
	t.Cleanup(func() {
		close(s.stop)
		s.ended.Wait()
		require.NoError(t, s.err)
		require.NoError(t, s.conn.Close())
	})
	return s
}

func (s *churn) run() {
	tick := time.NewTicker(time.Second / churnRate)
	defer tick.Stop()
	es := []nftables.Element{{Set: "tcp4", Key: nftables.PortKey(1), Value: netip.MustParseAddrPort("10.1.1.1:80")}}
	for change := (nftables.Change{Add: es}); s.err == nil; s.commits.Add(1) {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		s.err = s.conn.Update(s.table, change)
		change.Add, change.Delete = change.Delete, change.Add
	}
}

// Another program commits a thousand transactions a second to its table. So every dump
// mixes several states, and every guarded transaction comes too late. Changes, adoption
// and reading succeed nevertheless.
func TestForeignChurn(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	s := startChurn(t, top.Host)
	for _, many := range []int{1, 3000} {
		t.Run(fmt.Sprint(many, " mappings"), func(t *testing.T) {
			e := open(t, top.Host, engine.Options{})
			publish(t, e, fmt.Sprintf("10001-%d->172.30.0.2:20001-%d", 10000+many, 20000+many)) // an element for each port
			before := s.commits.Load()
			for range labtest.Rounds(t, "changes", 30, 200) {
				publish(t, e, "8080->172.30.0.2:80", "53->172.30.0.2:53/udp")
				unpublish(t, e, "8080->172.30.0.2:80", "53->172.30.0.2:53/udp")
			}
			publish(t, e, "8080->172.30.0.2:80")
			require.NoError(t, e.Close())
			for range labtest.Rounds(t, "adoptions", 2, 5) {
				e = open(t, top.Host, engine.Options{})
				require.Len(t, collect(e), many+1)
				require.NoError(t, e.Close())
				reader := open(t, top.Host, engine.Options{ReadOnly: true})
				require.Len(t, collect(reader), many+1)
			}
			require.Greater(t, s.commits.Load(), before, "nothing was committed meanwhile")
			labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
			require.NoError(t, open(t, top.Host, engine.Options{}).Purge(t.Context()))
		})
	}
}

// All ports of both protocols are published in one call, adopted, read back and
// unpublished. Packets follow the first and the last of them.
func TestEveryPort(t *testing.T) {
	labtest.LongOnly(t, "all 65,535 ports of both protocols")
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	for _, port := range []string{":1", ":65535"} {
		for _, network := range []string{"tcp", "udp"} {
			labtest.Echo(t, top.Backend1, network, network+port, port)
		}
	}
	all := []nat.Mapping{mapping(t, "1-65535->172.30.0.2:1-65535"), mapping(t, "1-65535->172.30.0.2:1-65535/udp")}
	e := open(t, top.Host, engine.Options{NoProxies: true})
	done, err := e.Publish(t.Context(), nat.PublishOptions{}, all...)
	require.NoError(t, err)
	require.Equal(t, all, done)
	require.NoError(t, e.Close())

	e = open(t, top.Host, engine.Options{NoProxies: true})
	require.ElementsMatch(t, all, collect(e))
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, mapping(t, "0->172.30.0.2:80"))
	require.ErrorIs(t, err, nat.ErrExhausted)
	for _, network := range []string{"tcp", "udp"} {
		for _, port := range []string{":1", ":65535"} {
			labtest.Reaches(t, top.Client, network, "192.0.2.1"+port, network+port)
		}
	}
	_, err = e.Remove(t.Context(), nat.Removal{Mappings: all})
	require.NoError(t, err)
	require.Empty(t, sortedElements(t, top.Host))
	require.NoError(t, e.Purge(t.Context()))
}
