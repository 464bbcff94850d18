// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// IfName replaces what has the name, publishes what is free, and is a conflict that names the owner else: of a range as a
// whole.
func TestIfName(t *testing.T) {
	b := newTestbed()
	e := b.open(t)
	named := func(text, name string) nat.Mapping {
		m := nattest.Mapping(t, text)
		m.Name = name
		return m
	}
	publish := func(how nat.PublishOptions, m nat.Mapping) error {
		_, err := e.Publish(t.Context(), how, m)
		return err
	}
	long := strings.Repeat("pod ", 40)
	ifName := func(name string) nat.PublishOptions { return nat.PublishOptions{Replace: true, IfName: name} }
	require.NoError(t, publish(ifName(long), named("8080->172.30.0.2:80", long)), "it is free")
	require.NoError(t, publish(ifName(long), named("8080->172.30.0.3:80", "new")))
	err := publish(ifName(long), named("8080->172.30.0.2:80", long))
	require.EqualError(t, err, `publish tcp 8080: tcp 8080 is published as 8080->172.30.0.3:80 by "new"`)
	var conflict *nat.ConflictError
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, "new", conflict.Have.Name)

	require.NoError(t, publish(nat.PublishOptions{}, named("9000-9019->172.30.0.2:9000-9019", "new")))
	require.NoError(t, publish(nat.PublishOptions{Replace: true}, named("9007->172.30.0.3:7", "other")))
	require.ErrorIs(t, publish(ifName("new"), named("9000-9019->172.30.0.3:9000-9019", "new")), nat.ErrConflict)
	require.NoError(t, publish(ifName("new"), named("9010-9019->172.30.0.3:9010-9019", "new")))
	// Who names no owner keeps that of what there is: it has to be the one that is meant, also where nothing would change.
	require.NoError(t, publish(ifName("old"), named("8080->172.30.0.3:80", "new")), "it is done")
	lease := named("8090->172.30.0.2:80", "new")
	for _, ttl := range []time.Duration{time.Hour, 2 * time.Hour} { // the second is as a client asks again whose daemon was killed
		lease.Expires = b.clock.Now().Add(ttl)
		require.NoError(t, publish(ifName("old"), lease))
	}
	lease.Backend = netip.MustParseAddrPort("172.30.0.3:80")
	require.ErrorIs(t, publish(ifName("old"), lease), nat.ErrConflict)
	require.ErrorIs(t, publish(ifName("old"), named("8080->172.30.0.3:80", "")), nat.ErrConflict)
	require.ErrorIs(t, publish(ifName("new"), named("9000-9007->172.30.0.2:9000-9007", "")), nat.ErrConflict)
	require.NoError(t, publish(ifName("new"), named("9000-9006->172.30.0.2:9000-9006", "")))
	require.ErrorIs(t, publish(nat.PublishOptions{IfName: "x"}, named("8080->172.30.0.2:80", "x")), nat.ErrInvalid)

	remove := func(name string, texts ...string) error {
		r := nat.Removal{Name: name}
		for _, text := range texts {
			r.Mappings = append(r.Mappings, nattest.Mapping(t, text))
		}
		_, err := e.Remove(t.Context(), r)
		return err
	}
	err = remove(long, "8080->172.30.0.9:80")
	require.ErrorIs(t, err, nat.ErrNotFound)
	require.EqualError(t, err, `unpublish tcp 8080: tcp 8080 of "`+nat.Name(long)+`" is not published: tcp 8080 is published as 8080->172.30.0.3:80 by "new"`)
	require.ErrorIs(t, remove("new", "9000-9019->172.30.0.2:9000-9019"), nat.ErrNotFound, "one port has another name")
	require.ErrorIs(t, remove("new", "8080->172.30.0.9:80", "8081->172.30.0.9:80"), nat.ErrNotFound, "one is not published")
	require.NoError(t, remove("new", "9008-9019->172.30.0.2:9008-9019"))
	require.NoError(t, remove("new"))
	require.ErrorIs(t, remove("new"), nat.ErrNotFound)
	require.Len(t, publishedBy(e), 1)
	requireConsistent(t, b, e)
}

// Names are kept as nat.Name says wherever they come in, and the long one finds what has it.
func TestLongNames(t *testing.T) {
	b := newTestbed()
	e := b.open(t)
	long := strings.Repeat("0123456789abcdef", 5)
	ctx := t.Context()
	m := nattest.Mapping(t, "8080->172.30.0.2:80")
	m.Name = long
	for range 2 { // the second changes nothing
		done, err := e.Publish(ctx, nat.PublishOptions{}, m)
		require.NoError(t, err)
		require.Equal(t, nat.Name(long), done[0].Name)
	}
	other := nattest.Mapping(t, "8081->172.30.0.2:81")
	changes, err := e.Diff(ctx, m, other)
	require.NoError(t, err)
	require.Len(t, changes, 1)
	n := nat.Network{Name: long, Prefix: netip.MustParsePrefix("10.77.0.0/24")}
	for range 2 {
		got, err := e.CreateNetwork(ctx, n)
		require.NoError(t, err)
		require.Equal(t, nat.Name(long), got.Name)
		ep, err := e.Attach(ctx, nat.EndpointSpec{Name: long, Network: long})
		require.NoError(t, err)
		require.Equal(t, nat.Name(long), ep.Name())
		_, err = e.Endpoint(ctx, long)
		require.NoError(t, err)
	}
	state, err := e.State(ctx)
	require.NoError(t, err)
	state.Networks[0].Name, state.Endpoints[0].Name, state.Endpoints[0].Network, state.Mappings[0].Name = long, long, long, long
	changes, err = e.ApplyState(ctx, state)
	require.NoError(t, err)
	require.Empty(t, changes)
	done, err := e.Remove(ctx, nat.Removal{Name: long})
	require.NoError(t, err)
	require.Len(t, done, 1)
	_, err = e.Detach(ctx, long)
	require.NoError(t, err)
	require.NoError(t, e.RemoveNetwork(ctx, long))
}

// The status says which clients on localhost come to the program that has a port: of ranges all, or those that eBPF leaves alone.
func TestSharedWarnings(t *testing.T) {
	const to = ", come to the program that has the port"
	for way, want := range map[string][]string{
		"none": {"101 ports (--hold shared): clients on localhost come to the program that has the port: to lead them past it takes a daemon, and for wide ranges eBPF"},
		"bpf":  {"100 ports (--hold shared): clients on localhost that eBPF leaves alone, such as sockets bound to an address and UDP to ::1 without connect(2)" + to},
	} {
		t.Run(way, func(t *testing.T) {
			b := newTestbed()
			if way == "bpf" {
				b.localhost = newFakeLocalhost()
			}
			e := b.open(t)
			for _, text := range []string{"0.0.0.0:8080->172.30.0.2:80", "0.0.0.0:10000-10099->172.30.0.2:10000-10099", "0.0.0.0:11000-11099->172.30.0.2:11000-11099"} {
				m := nattest.Mapping(t, text)
				m.Hold, m.NoProxy = nat.HoldShared, m.Frontend.Port() == 11000
				_, err := e.Publish(t.Context(), nat.PublishOptions{}, m)
				require.NoError(t, err)
			}
			require.Equal(t, want, e.core.sharedWarnings())
		})
	}
}

// Owners that come and go at once take from each other only what they mean to, and a late removal does not take what is
// another's by now: replayed in the order in which they happened, the changes are those that each caller was told of.
func TestIfNameRace(t *testing.T) {
	const owners, rounds, ports = 24, 60, 6
	b := newTestbed()
	e := b.openWith(t, Options{NoSysctl: true})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var events []nat.Event
	read := make(chan struct{})
	all := e.Events(ctx) // from now on
	go func() {
		defer close(read)
		for event := range all {
			if events = append(events, event); event.Kind == nat.EventUnpublished && event.Mappings[0].Name == "last" {
				return
			}
		}
	}()
	var mu sync.Mutex
	names := []string{"nobody"}  // that there ever were
	taken := map[string]string{} // whose place each was to take; "": that of nobody
	removed := map[string]int{}  // how often each was removed, as callers were told
	acquired := map[string]nat.Mapping{}
	var wg sync.WaitGroup
	errs := make(chan error, owners)
	for owner := range owners {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(3, uint64(owner)))
			for round := range rounds {
				m, err := nat.ParseMapping("tcp", fmt.Sprint(8000+r.IntN(ports)), fmt.Sprintf("172.30.0.%d:80", 2+owner))
				if err != nil {
					errs <- err
					return
				}
				mu.Lock()
				other := names[r.IntN(len(names))]
				if r.IntN(3) > 0 { // one of late
					other = names[max(0, len(names)-1-r.IntN(4))]
				}
				mu.Unlock()
				if r.IntN(2) == 0 {
					m.Name = fmt.Sprintf("%d of %d", round, owner)
					mu.Lock()
					taken[m.Name] = other
					mu.Unlock()
					_, err = e.Publish(context.Background(), nat.PublishOptions{Replace: true, IfName: other}, m)
					if err == nil {
						mu.Lock()
						names, acquired[m.Name] = append(names, m.Name), m
						mu.Unlock()
					} else if !errors.Is(err, nat.ErrConflict) {
						errs <- err
						return
					}
					continue
				}
				done, err := e.Remove(context.Background(), nat.Removal{Mappings: []nat.Mapping{m}, Name: other})
				switch {
				case err == nil && done[0].Name == other:
					mu.Lock()
					removed[other]++
					mu.Unlock()
				case err == nil:
					errs <- fmt.Errorf("a removal of %q took %q", other, done[0].Name)
					return
				case !errors.Is(err, nat.ErrNotFound):
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	left := publishedBy(e)
	last := nattest.Mapping(t, "9->172.30.0.2:9")
	last.Name = "last"
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, last)
	require.NoError(t, err)
	_, err = e.Remove(t.Context(), nat.Removal{Name: "last"})
	require.NoError(t, err)
	<-read
	model := map[uint16]nat.Mapping{}
	for _, event := range events {
		require.Len(t, event.Mappings, 1, event.Kind)
		m := event.Mappings[0]
		have, there := model[m.Frontend.Port()]
		switch event.Kind { //nolint:exhaustive // no other happens
		case nat.EventPublished:
			require.True(t, !there || have.Name == taken[m.Name], "%q took the place of %q, not of %q", m.Name, have.Name, taken[m.Name])
			model[m.Frontend.Port()] = m
		case nat.EventUnpublished:
			require.Equal(t, have, m)
			if removed[m.Name]--; m.Name != "last" {
				require.Zero(t, removed[m.Name], "%q was removed as often as a caller was told", m.Name)
			}
			delete(model, m.Frontend.Port())
		default:
			t.Fatalf("%s happened", event.Kind)
		}
	}
	var want []string
	for _, m := range model {
		want = append(want, inWords(m))
		require.Equal(t, acquired[m.Name], m)
	}
	require.ElementsMatch(t, want, left)
	require.Greater(t, len(acquired), owners)
	require.Greater(t, len(events), 3*owners)
	requireConsistent(t, b, e)
}
