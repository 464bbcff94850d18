// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package desired_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/fleet/desired"
	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/nat"
)

// fake is a daemon of single ports.
type fake struct {
	mappings []nat.Mapping
	networks []nat.Network
	calls    int
	err      error
	refuses  netip.Prefix // networks that overlap it
}

func (f *fake) Mappings(context.Context) ([]nat.Mapping, error) {
	return slices.Clone(f.mappings), f.err
}
func (f *fake) Networks(context.Context) ([]nat.Network, error) {
	return slices.Clone(f.networks), f.err
}

func (f *fake) Exchange(_ context.Context, x nat.Exchange) ([]nat.Change, error) {
	f.calls++
	if f.err != nil {
		return nil, f.err
	}
	next := slices.Clone(f.mappings)
	for _, m := range x.Remove {
		i := slices.Index(next, m)
		if i < 0 {
			return nil, nat.ErrNotFound
		}
		next = slices.Delete(next, i, i+1)
	}
	for _, m := range x.Publish {
		for _, have := range next {
			if have.Frontend == m.Frontend && have.Proto == m.Proto {
				return nil, fmt.Errorf("exchange 1 mappings for 2: %w", &nat.ConflictError{Want: m, Have: have})
			}
		}
		next = append(next, m)
	}
	f.mappings = next
	return nil, nil
}

func (f *fake) CreateNetwork(_ context.Context, n nat.Network) (nat.Network, error) {
	if f.refuses.IsValid() && f.refuses.Overlaps(n.Prefix) {
		return n, &nat.TakenError{What: "prefix " + n.Prefix.String(), Holder: "docker0"}
	}
	f.networks = append(f.networks, n)
	return n, f.err
}

func (f *fake) RemoveNetwork(_ context.Context, name string) error {
	f.networks = slices.DeleteFunc(f.networks, func(n nat.Network) bool { return n.Name == name })
	return f.err
}

func (f *fake) texts() (all []string) {
	for _, m := range f.mappings {
		all = append(all, m.Name+" "+m.String())
	}
	slices.Sort(all)
	return all
}

func entry(revision int64, key, value string) store.Entry {
	return store.Entry{Key: key, Value: value, Modified: revision}
}

func put(revision int64, kvs ...string) store.Update {
	u := store.Update{Revision: revision}
	for i := 0; i < len(kvs); i += 2 {
		u.Changes = append(u.Changes, store.Change{Entry: entry(revision, kvs[i], kvs[i+1])})
	}
	return u
}

func removed(revision int64, key string) store.Update {
	return store.Update{Revision: revision, Changes: []store.Change{{Entry: entry(revision, key, ""), Deleted: true}}}
}

func start(t *testing.T, f *fake, entries ...store.Entry) *desired.Reconciler {
	t.Helper()
	r := desired.New(desired.Options{Host: "h", Groups: []string{"g"}, Daemon: f})
	require.NoError(t, r.Step(t.Context()))
	require.Zero(t, f.calls, "nothing is done before etcd has told")
	require.True(t, r.Update(store.Update{Revision: 10, Whole: true, Entries: entries}))
	require.NoError(t, r.Step(t.Context()))
	return r
}

func mapping(t *testing.T, name, text string) nat.Mapping {
	t.Helper()
	m, err := nat.ParseMappingText(text)
	require.NoError(t, err)
	m.Name = name
	return m
}

func TestStep(t *testing.T) {
	hand := mapping(t, "web", "7->10.0.0.9:7")
	f := &fake{mappings: []nat.Mapping{hand, mapping(t, "fleet:gone", "8->10.0.0.9:8"), mapping(t, "fleet:web", "80->10.0.0.9:80")}}
	r := start(t, f,
		entry(1, "desired/all/mapping/web", "80->10.0.0.1:80"),
		entry(2, "desired/group/g/mapping/web", "80->10.0.0.2:80"),
		entry(3, "desired/group/other/mapping/x", "81->10.0.0.2:80"),
		entry(3, "desired/host/h/network/in", "{prefix: 172.30.0.0/24}"),
	)
	require.Equal(t, []string{"fleet:web 80->10.0.0.2:80", "web 7->10.0.0.9:7"}, f.texts())
	require.Equal(t, 1, f.calls, "in one transaction")
	require.Len(t, f.networks, 1)
	require.Equal(t, "fleet.in", f.networks[0].Name)

	// A frontend goes from one item to another, and precedence falls back.
	step := func(us ...store.Update) {
		t.Helper()
		for _, u := range us {
			r.Update(u)
		}
		require.NoError(t, r.Step(t.Context()))
	}
	step(put(11, "desired/host/h/mapping/www", "80->10.0.0.3:80\n443->10.0.0.3:443", "desired/group/g/mapping/web", "90->10.0.0.2:80"))
	require.Equal(t, []string{"fleet:web 90->10.0.0.2:80", "fleet:www 443->10.0.0.3:443", "fleet:www 80->10.0.0.3:80", "web 7->10.0.0.9:7"}, f.texts())
	require.Equal(t, 2, f.calls)
	step(removed(12, "desired/host/h/mapping/www"), removed(13, "desired/group/g/mapping/web"), removed(14, "desired/host/h/network/in"))
	require.Equal(t, []string{"fleet:web 80->10.0.0.1:80", "web 7->10.0.0.9:7"}, f.texts())
	require.Empty(t, f.networks)
	require.EqualValues(t, 14, r.Report().Revision)

	// Nothing of what is not desired is looked at.
	calls := f.calls
	require.False(t, r.Update(put(15, "hosts/x", "y")))
	step()
	require.Equal(t, calls, f.calls)
}

// What cannot be is left out, and stays as it was.
func TestRefused(t *testing.T) {
	f := &fake{mappings: []nat.Mapping{mapping(t, "", "7->10.0.0.9:7")}}
	r := start(t, f, entry(1, "desired/all/mapping/a", "80->10.0.0.1:80"))
	var kvs []string
	for i := range 20 {
		kvs = append(kvs, fmt.Sprintf("desired/all/mapping/m%d", i), fmt.Sprintf("%d->10.0.0.1:80", 100+i))
	}
	r.Update(put(11, append(kvs, "desired/all/mapping/a", "nonsense", "desired/all/mapping/taken", "7->10.0.0.1:80",
		"desired/all/thing/x", "y", "desired/wrong", "z")...))
	require.NoError(t, r.Step(t.Context()))
	require.Len(t, f.mappings, 22)
	require.Contains(t, f.texts(), "fleet:a 80->10.0.0.1:80")
	report := r.Report()
	require.EqualValues(t, 11, report.Revision)
	require.Equal(t, 21, report.Mappings)
	require.Len(t, report.Errors, 4)
	require.Equal(t, "desired/all/mapping/a", report.Errors[0].Key)
	require.Equal(t, keys.Fault{Key: "desired/all/mapping/taken", Revision: 11, Reason: "tcp 7 is published as 7->10.0.0.9:7"}, report.Errors[1])

	// It is tried again when something goes.
	f.mappings = f.mappings[1:]
	require.True(t, r.Event(api.Event{Type: api.EventUnpublished, Mapping: &api.Mapping{Proto: "tcp", Port: 7, Backend: "10.0.0.9:7"}}))
	require.NoError(t, r.Step(t.Context()))
	require.Contains(t, f.texts(), "fleet:taken 7->10.0.0.1:80")
}

// A change of several transactions is applied at its end.
func TestChangeOfSeveral(t *testing.T) {
	f := &fake{}
	r := start(t, f)
	c := keys.Change{ID: "1", Open: true, Scope: "all", By: "me"}
	r.Update(put(11, "generation", c.Format()))
	r.Update(put(12, "desired/all/mapping/a", "80->10.0.0.1:80"))
	require.NoError(t, r.Step(t.Context()))
	require.Empty(t, f.mappings)
	require.Contains(t, r.Report().Waiting, "the change of all that me began")
	r.Update(put(13, "desired/all/mapping/b", "81->10.0.0.1:80"))
	c.Open = false
	r.Update(put(14, "generation", c.Format()))
	require.NoError(t, r.Step(t.Context()))
	require.Len(t, f.mappings, 2)
	require.Equal(t, 1, f.calls)
	require.Empty(t, r.Report().Waiting)
}

// While a change of several is not at its end, what was desired before it goes on: a mapping that was removed
// comes back. Who has listed a part of it alone does nothing.
func TestUnfinishedChange(t *testing.T) {
	f := &fake{}
	item := entry(1, "desired/all/mapping/a", "192.0.2.1:80->10.0.0.1:80")
	r := start(t, f, item)
	c := keys.Change{ID: "1", Open: true, Scope: "all", By: "me"}
	r.Update(put(11, "generation", c.Format()))
	r.Update(put(12, "desired/all/mapping/a", "192.0.2.1:80->10.0.0.2:80"))
	f.mappings = nil
	r.Retry()
	require.NoError(t, r.Step(t.Context()))
	require.Equal(t, []string{"fleet:a 192.0.2.1:80->10.0.0.1:80"}, f.texts())
	require.EqualValues(t, 10, r.Report().Revision)
	require.NotEmpty(t, r.Report().Waiting)

	later := &fake{}
	r = start(t, later, item, entry(11, "generation", c.Format()))
	require.Zero(t, later.calls)
	// So it cannot serve a floating address, but for one on which nothing is mapped.
	require.ErrorContains(t, r.Refused(func(a netip.Addr) bool { return a == netip.MustParseAddr("192.0.2.1") }), "waits for the end of the change of all")
	require.NoError(t, r.Refused(func(a netip.Addr) bool { return a == netip.MustParseAddr("192.0.2.2") }))
	c.Open = false
	r.Update(put(13, "generation", c.Format()))
	require.NoError(t, r.Step(t.Context()))
	require.Len(t, later.mappings, 1)
	require.NoError(t, r.Refused(func(netip.Addr) bool { return true }))
}

// A network whose new prefix the host cannot have stays as it was.
func TestNetworkRefused(t *testing.T) {
	f := &fake{refuses: netip.MustParsePrefix("172.17.0.0/16")}
	r := start(t, f, entry(1, "desired/all/network/in", "{prefix: 172.30.0.0/24}"))
	r.Update(put(11, "desired/all/network/in", "{prefix: 172.17.0.0/24}"))
	require.NoError(t, r.Step(t.Context()))
	require.Len(t, f.networks, 1)
	require.Equal(t, "172.30.0.0/24", f.networks[0].Prefix.String())
	report := r.Report()
	require.Len(t, report.Errors, 1)
	require.Equal(t, "desired/all/network/in", report.Errors[0].Key)
	require.Equal(t, 1, report.Networks)
}

// A daemon that is away, or has been changed by others, is asked again.
func TestDaemonAway(t *testing.T) {
	f := &fake{}
	r := start(t, f)
	f.err = api.ErrNoServer
	r.Update(put(11, "desired/all/mapping/a", "80->10.0.0.1:80"))
	require.ErrorIs(t, r.Step(t.Context()), api.ErrNoServer)
	require.Contains(t, r.Report().Daemon, "no server answers")
	f.err = nil
	require.NoError(t, r.Step(t.Context()))
	require.Len(t, f.mappings, 1)
	require.Empty(t, r.Report().Daemon)

	f.mappings = nil
	r.Update(put(12, "desired/all/mapping/a", "80->10.0.0.2:80"))
	require.NoError(t, r.Step(t.Context()))
	require.Equal(t, []string{"fleet:a 80->10.0.0.2:80"}, f.texts())

	// Its own changes are no reason to look, those of others are.
	own := &api.Mapping{Proto: "tcp", Port: 80, Backend: "10.0.0.2:80", Name: "fleet:a"}
	require.False(t, r.Event(api.Event{Type: api.EventPublished, Mapping: own}))
	f.mappings = nil
	require.True(t, r.Event(api.Event{Type: api.EventUnpublished, Mapping: own}))
	require.NoError(t, r.Step(t.Context()))
	require.Len(t, f.mappings, 1)
}
