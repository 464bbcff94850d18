// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/nat"
)

// fake is a daemon and a gateway.
type fake struct {
	mu          sync.Mutex
	mappings    []nat.Mapping
	connections []nat.Connections
	diagnosis   report.Diagnosis
	gateway     *api.Gateway
	err         error
	connsErr    error // of Connections alone
	calls       map[string]int
	events      []chan api.Event
	removals    []nat.Removal
}

func (f *fake) call(name string) error {
	if f.calls == nil {
		f.calls = map[string]int{}
	}
	f.calls[name]++
	return f.err
}

func (f *fake) Status(context.Context) (api.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return api.Status{Version: "1.2.3", Started: time.Unix(1e9, 0), Table: api.TableStatus{Name: "nftnat", Owned: true}}, f.call("status")
}

func (f *fake) Mappings(context.Context) ([]nat.Mapping, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.mappings), f.call("mappings")
}

func (f *fake) Connections(context.Context) ([]nat.Connections, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.connections), errors.Join(f.call("connections"), f.connsErr)
}

func (f *fake) Doctor(context.Context) (report.Diagnosis, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.diagnosis, f.call("doctor")
}

func (f *fake) Explain(_ context.Context, q report.Query) (report.Report, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := report.Report{Query: q, Verdict: report.Stopped, Cause: &report.Cause{Thing: "table <b>corpwall</b>", What: "drops"}}
	if q.Frontend.Port() == 1 {
		r = report.Report{Query: q, Verdict: report.NotPublished}
	}
	return r, f.call("explain")
}

func (f *fake) RangeEvents(ctx context.Context) (iter.Seq2[api.Event, error], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("events"); err != nil {
		return nil, err
	}
	events := make(chan api.Event, 100)
	f.events = append(f.events, events)
	return func(yield func(api.Event, error) bool) {
		for {
			select {
			case e := <-events:
				if !yield(e, nil) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}, nil
}

func (f *fake) Publish(_ context.Context, _ nat.PublishOptions, ms ...nat.Mapping) ([]nat.Mapping, error) {
	f.mu.Lock()
	err := f.call("publish")
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	f.set(func() { f.mappings = append(f.mappings, ms...) })
	return ms, nil
}

func (f *fake) Remove(_ context.Context, r nat.Removal) (gone []nat.Mapping, err error) {
	f.mu.Lock()
	err = f.call("remove")
	f.removals = append(f.removals, r)
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	f.set(func() {
		f.mappings = slices.DeleteFunc(f.mappings, func(m nat.Mapping) bool {
			x := r.Mappings[0]
			ok := m.Proto == x.Proto && m.Frontend == x.Frontend && (!r.Exact || m.Backend == x.Backend) && (r.Name == "" || r.Name == m.Name)
			if ok {
				gone = append(gone, m)
			}
			return ok
		})
	})
	if gone == nil {
		return nil, &api.Problem{Status: http.StatusNotFound, Code: api.CodeNotFound, Detail: "it is not published"}
	}
	return gone, nil
}

func (f *fake) Gateway(context.Context) (api.Gateway, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gateway == nil {
		return api.Gateway{}, api.NewClient("/nowhere/gateway.sock").Health(context.Background())
	}
	return *f.gateway, nil
}

// set changes the daemon, and tells those who follow.
func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	slices.SortFunc(f.mappings, nat.Compare)
	for _, c := range f.events {
		c <- api.Event{Type: api.EventPublished, Time: time.Unix(1e9, 0)}
	}
}

func (f *fake) count(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[name]
}

func mapping(tb testing.TB, text, name string) nat.Mapping {
	tb.Helper()
	m, err := nat.ParseMappingText(text)
	require.NoError(tb, err)
	m.Name = name
	return m
}

// many are n mappings.
func many(n int) (ms []nat.Mapping) {
	for i := range n {
		ms = append(ms, nat.Mapping{
			Proto: nat.TCP, Frontend: netip.AddrPortFrom(netip.Addr{}, uint16(10000+i)),
			Backend: netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 17, byte(i >> 8), byte(i)}), 80), Name: fmt.Sprintf("service-%d", i),
		})
	}
	return ms
}
