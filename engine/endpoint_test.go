// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/alloc"
	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

func netOf(tb testing.TB, name, prefix string) nat.Network {
	tb.Helper()
	n, err := nat.ParseNetwork(name, prefix, "")
	require.NoError(tb, err)
	return n
}

func create(tb testing.TB, e *Engine, name, prefix string) nat.Network {
	tb.Helper()
	n, err := e.CreateNetwork(tb.Context(), netOf(tb, name, prefix))
	require.NoError(tb, err)
	return n
}

// endpointSpec is NAME [NETWORK] with port specs.
func endpointSpec(tb testing.TB, name, network string, specs ...string) nat.EndpointSpec {
	tb.Helper()
	a := nat.EndpointSpec{Name: name, Network: network}
	for _, spec := range specs {
		s, err := nat.ParsePortSpec(spec)
		require.NoError(tb, err)
		a.Ports = append(a.Ports, s)
	}
	return a
}

func attach(tb testing.TB, e *Engine, name, network string, specs ...string) *Endpoint {
	tb.Helper()
	ep, err := e.Attach(tb.Context(), endpointSpec(tb, name, network, specs...))
	require.NoError(tb, err)
	return ep
}

func portsOfEndpoint(ep *Endpoint) []string {
	return inAllWords(nat.Collapse(must(ep.Mappings(context.Background()))))
}

// isRecordSet reports whether a set has records of networks or endpoints.
func isRecordSet(set string) bool {
	return slices.Contains([]string{"networks", "masqueraded", "guarded", "cursors", "leases"}, strings.TrimRight(set, "46"))
}

// recordsIn are the elements of a dump that are of networks and endpoints.
func recordsIn(dump string) (lines []string) {
	for _, line := range elementsIn(dump) {
		if set, _, _ := strings.Cut(line, " "); isRecordSet(set) {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

func TestNetworkOnRecord(t *testing.T) {
	e, b := openFake(t)
	n := create(t, e, "inside", inside4)
	require.Equal(t, "172.30.0.1", n.Gateway.String())
	require.Equal(t, "172.30.0.2", n.Next.String())
	_, err := e.CreateNetwork(t.Context(), nat.Network{Name: "six", Prefix: netip.MustParsePrefix(inside6), Gateway: netip.MustParseAddr("fd00:30::ff"), NoGuard: true, NoMasquerade: true})
	require.NoError(t, err)
	require.Equal(t, []string{
		`cursors4 { 172.30.0.2 comment "inside" }`,
		`cursors6 { fd00:30::1 comment "six" }`,
		`guarded4 { 172.30.0.0/24 comment "inside" }`,
		`masqueraded4 { 172.30.0.0/24 comment "inside" }`,
		`networks4 { 172.30.0.0/24 comment "inside [gateway 172.30.0.1]" }`,
		`networks6 { fd00:30::/64 comment "six [gateway fd00:30::ff]" }`,
	}, recordsIn(b.kernel.Dump()))
	require.Equal(t, []string{inside4, inside6}, pairsIn(b.kernel.Dump()))
	require.Empty(t, segmentsIn(b.kernel.Dump()), "nothing is published there")
	requireConsistent(t, b, e)

	require.ErrorIs(t, e.RemoveNetwork(t.Context(), "none"), fs.ErrNotExist)
	require.NoError(t, e.RemoveNetwork(t.Context(), "inside"))
	require.NoError(t, e.RemoveNetwork(t.Context(), "six"))
	require.Empty(t, elementsIn(b.kernel.Dump()))
	requireConsistent(t, b, e)
}

func TestNetworkRefused(t *testing.T) {
	e, b := openFake(t)
	create(t, e, "inside", inside4)
	attach(t, e, "web", "inside")
	before := b.kernel.Dump()
	for _, test := range []struct{ name, prefix, want string }{
		{"inside", "172.31.0.0/24", "network inside 172.30.0.0/24 exists already"},
		{"other", "172.30.0.0/25", "prefix 172.30.0.0/25 is taken by network inside 172.30.0.0/24"},
		{"other", "172.16.0.0/12", "prefix 172.16.0.0/12 is taken by network inside 172.30.0.0/24"},
		{"other", "10.9.1.0/24", "is taken by the route 10.9.0.0/16"},
		{"other", "10.0.0.0/8", "is taken by the route 10.9.0.0/16"},
		{"other", "192.0.2.0/24", "is taken by the route 192.0.2."},
	} {
		_, err := e.CreateNetwork(t.Context(), netOf(t, test.name, test.prefix))
		require.ErrorIs(t, err, nat.ErrConflict)
		require.ErrorContains(t, err, "create network "+test.name+": ")
		require.ErrorContains(t, err, test.want)
	}
	_, err := e.CreateNetwork(t.Context(), nat.Network{Name: "x"})
	require.ErrorIs(t, err, nat.ErrInvalid)
	err = e.RemoveNetwork(t.Context(), "inside")
	require.EqualError(t, err, "remove network inside: network inside is taken by endpoint web")
	require.ErrorIs(t, err, nat.ErrConflict)
	require.Equal(t, before, b.kernel.Dump())
	requireConsistent(t, b, e)
}

func TestAttach(t *testing.T) {
	e, b := openFake(t)
	create(t, e, "inside", inside4)
	changes := 0
	b.kernel.Hook(func(op string) error {
		if op == "Update" || op == "Replace" {
			changes++
		}
		return nil
	})
	ep := attach(t, e, "web", "", "80", "8000-8001:90-91/udp", local4+":443:443")
	require.Equal(t, 1, changes, "one transaction brings address and ports")
	require.Equal(t, "web", ep.Name())
	require.Equal(t, "inside", ep.Network())
	require.Equal(t, "172.30.0.2/24", ep.Address().String())
	require.Equal(t, "172.30.0.1", ep.Gateway().String())
	require.Equal(t, []string{
		"49153->172.30.0.2:80 web", local4 + ":443->172.30.0.2:443 web", "8000-8001->172.30.0.2:90-91/udp web",
	}, portsOfEndpoint(ep))
	require.Subset(t, elementsIn(b.kernel.Dump()), []string{`leases4 { 172.30.0.2 comment "web" }`, `cursors4 { 172.30.0.3 comment "inside" }`})
	other := attach(t, e, "db", "inside")
	require.Equal(t, "172.30.0.3/24", other.Address().String())
	require.Empty(t, portsOfEndpoint(other))
	requireConsistent(t, b, e)

	found, err := e.Endpoint(t.Context(), "web")
	require.NoError(t, err)
	require.Same(t, ep, found)
	require.Equal(t, []*Endpoint{other, ep}, must(e.Endpoints(t.Context())))

	// A mapping with the endpoint's name and address belongs to it, whichever call published it.
	m := nattest.Mapping(t, "81->172.30.0.2:81")
	m.Name = "web"
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, m)
	require.NoError(t, err)
	publish(t, e, "82->172.30.0.2:82")
	require.Contains(t, portsOfEndpoint(ep), "81->172.30.0.2:81 web")

	changes = 0
	require.NoError(t, ep.Release(t.Context()))
	require.Equal(t, 2, changes, "all of it, and then the note that UDP flows are to end")
	require.NoError(t, ep.Release(t.Context()), "once is enough")
	require.Empty(t, portsOfEndpoint(ep))
	require.Equal(t, []string{"82->172.30.0.2:82"}, publishedBy(e), "it was not the endpoint's")
	_, err = e.Endpoint(t.Context(), "web")
	require.ErrorIs(t, err, nat.ErrNotFound)
	requireConsistent(t, b, e)

	// Its address comes round last.
	require.Equal(t, "172.30.0.4/24", attach(t, e, "web", "").Address().String())
	require.NoError(t, ep.Release(t.Context()), "it is another one's name by now")
	_, err = e.Endpoint(t.Context(), "web")
	require.NoError(t, err)
}

func TestAttachRefused(t *testing.T) {
	e, b := openFake(t)
	_, err := e.Attach(t.Context(), endpointSpec(t, "web", ""))
	require.EqualError(t, err, "attach web: there is no network yet")
	require.ErrorIs(t, err, nat.ErrNotFound)
	create(t, e, "inside", "172.30.0.0/29")
	create(t, e, "six", inside6)
	attach(t, e, "web", "inside", "80:80")
	publish(t, e, "90->10.9.0.2:90")
	b.host.routes[netip.MustParsePrefix("172.30.0.6/32")] = hostnet.Route{Kind: hostnet.Local}
	at := func(a nat.EndpointSpec, addr string) nat.EndpointSpec {
		a.Address = netip.MustParseAddr(addr)
		return a
	}
	before := b.kernel.Dump()
	for _, test := range []struct {
		a    nat.EndpointSpec
		is   error
		want string
	}{
		{endpointSpec(t, "web", "inside"), nat.ErrConflict, "attach web: endpoint web (172.30.0.2) exists already"},
		{endpointSpec(t, "x", "none"), nat.ErrNotFound, `there is no network "none"`},
		{endpointSpec(t, "x", ""), nat.ErrInvalid, "say which network it is in: inside, six"},
		{endpointSpec(t, "x y", "inside"), nat.ErrInvalid, "letters"},
		{endpointSpec(t, "", "inside"), nat.ErrInvalid, "no name"},
		{endpointSpec(t, "x", "a b"), nat.ErrInvalid, "letters"},
		{at(endpointSpec(t, "x", "inside"), "172.30.0.2"), nat.ErrConflict, "address 172.30.0.2 is taken by endpoint web"},
		{at(endpointSpec(t, "x", "inside"), "172.30.0.1"), nat.ErrInvalid, "it is the gateway of network inside"},
		{at(endpointSpec(t, "x", "inside"), "172.30.0.0"), nat.ErrInvalid, "it is the first address"},
		{at(endpointSpec(t, "x", "inside"), "172.30.0.7"), nat.ErrInvalid, "it is the broadcast address"},
		{at(endpointSpec(t, "x", "inside"), "172.30.0.6"), nat.ErrConflict, "taken by this host itself"},
		{at(endpointSpec(t, "x", "inside"), "172.30.0.8"), nat.ErrInvalid, "it is not in network inside"},
		{at(endpointSpec(t, "x", "inside"), "fd00:30::2"), nat.ErrInvalid, "it is not in network inside"},
		{at(endpointSpec(t, "x", ""), "10.0.0.1"), nat.ErrInvalid, "it is in none of the networks"},
		{at(endpointSpec(t, "x", ""), "127.0.0.1"), nat.ErrInvalid, "loopback"},
		{endpointSpec(t, "x", "inside", "80:81"), nat.ErrConflict, `tcp 80 is published as 80->172.30.0.2:80 by "web"`},
		{endpointSpec(t, "x", "inside", "81:81", "90:90"), nat.ErrConflict, "tcp 90 is published as"},
		{endpointSpec(t, "x", "inside", "81:81", "81:82"), nat.ErrInvalid, "overlap"},
		{at(endpointSpec(t, "x", "inside", "172.30.0.5:81:81"), "172.30.0.5"), nat.ErrInvalid, "have one address"},
	} {
		_, err := e.Attach(t.Context(), test.a)
		require.ErrorIs(t, err, test.is, "%v", test.a)
		require.ErrorContains(t, err, test.want, "%v", test.a)
		require.Equal(t, before, b.kernel.Dump(), "%v", test.a)
		requireConsistent(t, b, e)
	}
	for i := range 3 {
		attach(t, e, fmt.Sprint("e", i), "inside")
	}
	_, err = e.Attach(t.Context(), endpointSpec(t, "x", "inside"))
	require.ErrorIs(t, err, alloc.ErrExhausted, "172.30.0.6 is the host's")
	require.ErrorContains(t, err, "attach x: network inside 172.30.0.0/29")
	requireConsistent(t, b, e)
}

// An attach or release that fails at any step leaves nothing behind, or all.
func TestAttachFails(t *testing.T) {
	e, b := openFake(t)
	create(t, e, "inside", inside4)
	kept := attach(t, e, "kept", "inside", "70/udp", "71")
	cause := errors.New("no")
	for _, op := range []string{"Update", "flows"} {
		before := b.kernel.Dump()
		fail := func() {
			if op == "flows" {
				b.flows.hook = func(string) error { b.flows.hook = nil; return cause }
			} else {
				b.kernel.FailNext(op, cause)
			}
		}
		fail()
		_, err := e.Attach(t.Context(), endpointSpec(t, "web", "inside", "80/udp", "81"))
		require.ErrorIs(t, err, cause, op)
		require.Equal(t, before, b.kernel.Dump(), op)
		requireConsistent(t, b, e)
		fail()
		require.ErrorIs(t, kept.Release(t.Context()), cause, op)
		require.Equal(t, before, b.kernel.Dump(), op)
		requireConsistent(t, b, e)
		require.Len(t, portsOfEndpoint(kept), 2)
	}
	require.NoError(t, kept.Release(t.Context()))
	require.Equal(t, "172.30.0.3/24", attach(t, e, "web", "inside").Address().String())
	requireConsistent(t, b, e)
}

// A full network says so, and what is released of it comes first.
func TestNetworkComesRound(t *testing.T) {
	e, b := openFake(t)
	create(t, e, "inside", "172.30.0.0/29")
	var eps []*Endpoint
	for i := range 5 {
		eps = append(eps, attach(t, e, fmt.Sprint("e", i), ""))
	}
	_, err := e.Attach(t.Context(), endpointSpec(t, "more", ""))
	require.ErrorIs(t, err, alloc.ErrExhausted)
	require.NoError(t, eps[3].Release(t.Context()))
	require.NoError(t, eps[1].Release(t.Context()))
	for _, want := range []string{"172.30.0.5/29", "172.30.0.3/29"} {
		e = b.open(t) // the engine before was killed
		requireConsistent(t, b, e)
		require.Equal(t, want, attach(t, e, "x"+want[len(want)-4:len(want)-3], "").Address().String())
	}
	_, err = e.Attach(t.Context(), endpointSpec(t, "more", ""))
	require.ErrorIs(t, err, alloc.ErrExhausted)
}

// TCP flows to an endpoint that goes end with it, and no others.
func TestReleaseEndsFlows(t *testing.T) {
	e, b := openFake(t)
	create(t, e, "inside", inside4)
	ep := attach(t, e, "web", "", "80:80")
	publish(t, e, "81->172.30.0.2:80")
	flow := func(port uint16) conntrack.Flow {
		return conntrack.Flow{
			Proto: uint8(nat.TCP), Src: netip.MustParseAddrPort("198.51.100.7:1000"), Dst: netip.AddrPortFrom(netip.MustParseAddr(local4), port),
			ReplySrc: netip.MustParseAddrPort("172.30.0.2:80"), ReplyDst: netip.MustParseAddrPort("198.51.100.7:1000"),
		}
	}
	b.flows.flows = []conntrack.Flow{flow(80), flow(81)}
	require.NoError(t, ep.Release(t.Context()))
	require.Equal(t, []conntrack.Flow{flow(81)}, b.flows.flows)
}

// Networks have pairs and links have segments, whatever is there of the other.
func TestNetworkAmongSegments(t *testing.T) {
	e, b := openFake(t)
	b.host.onLink("br0", "172.30.0.0/25")
	publish(t, e, "80->172.30.0.2:80", "81->172.30.0.200:81")
	require.Empty(t, pairsIn(b.kernel.Dump()))
	for _, network := range []string{inside4, "172.30.0.0/25", "172.30.0.0/16"} {
		create(t, e, "inside", network)
		require.Equal(t, []string{network}, pairsIn(b.kernel.Dump()))
		require.Equal(t, []string{inside4}, segmentsIn(b.kernel.Dump()))
		require.NoError(t, unpublishes("80->172.30.0.2:80", "81->172.30.0.200:81")(e))
		require.Equal(t, []string{network}, pairsIn(b.kernel.Dump()))
		require.Empty(t, segmentsIn(b.kernel.Dump()))
		requireConsistent(t, b, e)
		publish(t, e, "80->172.30.0.2:80", "81->172.30.0.200:81")
		require.NoError(t, e.RemoveNetwork(t.Context(), "inside"))
		require.Empty(t, pairsIn(b.kernel.Dump()))
		require.Equal(t, []string{inside4}, segmentsIn(b.kernel.Dump()))
		requireConsistent(t, b, e)
	}
}

// Records that no engine can have written go; what is missing of the others comes.
func TestAdoptRecords(t *testing.T) {
	el := func(set, key, comment string) nft.Element {
		out := nft.Element{Set: set, Comment: comment}
		if p, err := netip.ParsePrefix(key); err == nil {
			out.Key = nft.PrefixKey(p)
		} else {
			out.Key = nft.AddrKey(netip.MustParseAddr(key))
		}
		return out
	}
	for name, es := range map[string][]nft.Element{
		"no gateway":           {el("networks4", "10.1.0.0/24", "x")},
		"a gateway elsewhere":  {el("networks4", "10.1.0.0/24", "x [gateway 10.2.0.1]")},
		"a gateway misspelt":   {el("networks6", "fd01::/64", "x [gateway fd01::0001]")},
		"a strange name":       {el("networks4", "10.1.0.0/24", "x\x1b[2J [gateway 10.1.0.1]")},
		"no name":              {el("networks4", "10.1.0.0/24", "")},
		"the same name":        {el("networks4", "10.1.0.0/24", "inside [gateway 10.1.0.1]")},
		"a loopback network":   {el("networks4", "127.1.0.0/24", "x [gateway 127.1.0.1]")},
		"guarded, no network":  {el("guarded4", "10.1.0.0/24", "x")},
		"masqueraded, neither": {el("masqueraded6", "fd01::/64", "inside")},
		"a lease elsewhere":    {el("leases4", "10.1.0.2", "y")},
		"the gateway leased":   {el("leases4", "172.30.0.1", "y")},
		"a lease, no name":     {el("leases4", "172.30.0.9", "")},
		"a lease, strange":     {el("leases4", "172.30.0.9", "\"\n")},
		"the same endpoint":    {el("leases4", "172.30.0.9", "web")},
		"two cursors":          {el("cursors4", "172.30.0.200", "inside")},
		"a cursor elsewhere":   {el("cursors6", "fd01::2", "inside")},
		"another's cursor":     {el("cursors4", "172.30.0.2", "six")},
	} {
		e, b := openFake(t)
		create(t, e, "inside", inside4)
		create(t, e, "six", inside6)
		attach(t, e, "web", "inside", "80")
		whole := b.kernel.Dump()
		b.write(t, es...)
		before := b.kernel.Dump()
		r := b.openWith(t, Options{ReadOnly: true})
		require.Len(t, must(r.Endpoints(t.Context())), 1, name)
		require.Equal(t, before, b.kernel.Dump())
		e = b.open(t)
		require.Equal(t, whole, b.kernel.Dump(), name)
		requireConsistent(t, b, e)
		require.Equal(t, "172.30.0.3/24", attach(t, e, "db", "inside").Address().String(), name)
		requireConsistent(t, b, e)
	}
	for _, missing := range []string{"cursors4 { 172.30.0.3", "inside4 { 172.30.0.0/24"} {
		e, b := openFake(t)
		create(t, e, "inside", inside4)
		attach(t, e, "web", "inside", "80")
		whole := b.kernel.Dump()
		b.drop(t, missing)
		e = b.open(t)
		require.Equal(t, whole, b.kernel.Dump(), missing)
		attach(t, e, "db", "inside")
		require.NoError(t, e.Purge(t.Context()))
	}
}

// An endpoint stays itself when the engine looks anew what the kernel holds.
func TestEndpointOutlivesDoubt(t *testing.T) {
	e, b := openFake(t)
	create(t, e, "inside", inside4)
	ep := attach(t, e, "web", "inside", "80:80")
	b.kernel.FailNext("Update", unix.ENOBUFS)
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "81->172.30.0.2:81"))
	require.Error(t, err)
	publish(t, e, "82->172.30.0.2:82")
	require.Len(t, portsOfEndpoint(ep), 1)
	require.NoError(t, ep.Release(t.Context()))
	require.Empty(t, must(e.Endpoints(t.Context())))
	requireConsistent(t, b, e)
}

// The table gone, all of the records come back with the next change.
func TestRecordsComeBack(t *testing.T) {
	e, b := openFake(t)
	create(t, e, "inside", inside4)
	create(t, e, "other", "10.77.0.0/24")
	ep := attach(t, e, "web", "inside", "80:80")
	attach(t, e, "db", "other", "81:81/udp")
	b.kernel.Flush()
	require.NoError(t, ep.Release(t.Context()))
	requireConsistent(t, b, e)
	require.Equal(t, []string{"81->10.77.0.2:81/udp db"}, publishedBy(b.open(t)))
	b.kernel.Flush()
	require.NoError(t, e.RemoveNetwork(t.Context(), "inside"))
	requireConsistent(t, b, e)
	require.Len(t, recordsIn(b.kernel.Dump()), 5)
}

func TestAttachConcurrently(t *testing.T) {
	e, b := openFake(t)
	create(t, e, "inside", inside4)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				ep, err := e.Attach(t.Context(), endpointSpec(t, fmt.Sprintf("e%d-%d", i, j), "inside", "80", "53/udp"))
				if !errors.Is(err, nil) {
					t.Error(err)
					return
				}
				var both sync.WaitGroup
				for range 2 {
					both.Go(func() {
						if err := ep.Release(t.Context()); err != nil {
							t.Error(err)
						}
					})
				}
				both.Wait()
			}
		})
	}
	wg.Wait()
	require.Empty(t, publishedBy(e))
	require.Empty(t, must(e.Endpoints(t.Context())))
	requireConsistent(t, b, e)
}

// A closed engine and one that only reads say so.
func TestEndpointsOfClosed(t *testing.T) {
	e, b := openFake(t)
	create(t, e, "inside", inside4)
	ep := attach(t, e, "web", "", "80")
	r := b.openWith(t, Options{ReadOnly: true})
	_, err := r.Attach(t.Context(), endpointSpec(t, "x", ""))
	require.ErrorIs(t, err, nat.ErrReadOnly)
	_, err = r.CreateNetwork(t.Context(), netOf(t, "x", "10.1.0.0/24"))
	require.ErrorIs(t, err, nat.ErrReadOnly)
	require.ErrorIs(t, r.RemoveNetwork(t.Context(), "inside"), nat.ErrReadOnly)
	require.NoError(t, e.Close())
	require.ErrorIs(t, ep.Release(t.Context()), nat.ErrClosed)
	_, err = ep.Mappings(t.Context())
	require.ErrorIs(t, err, nat.ErrClosed)
	_, err = e.Endpoint(t.Context(), "web")
	require.ErrorIs(t, err, nat.ErrClosed)
	_, err = e.Network(t.Context(), "inside")
	require.ErrorIs(t, err, nat.ErrClosed)
	_, err = e.State(t.Context())
	require.ErrorIs(t, err, nat.ErrClosed)
	_, err = e.Endpoints(t.Context())
	require.ErrorIs(t, err, nat.ErrClosed)
	_, err = e.Networks(t.Context())
	require.ErrorIs(t, err, nat.ErrClosed)
}

// The handle of an endpoint is the same after the table was loaded again, and ends with the
// lease.
func TestHandles(t *testing.T) {
	e, b := openFake(t)
	create(t, e, "inside", "172.30.0.0/24")
	ep := attach(t, e, "web", "inside", "80", "81")
	b.drop(t, "tcp4 { 49153 ") // by another program
	e.core.table.MarkStale()
	require.Equal(t, []string{"49154->172.30.0.2:81 web"}, portsOfEndpoint(ep))
	found, err := e.Endpoint(t.Context(), "web")
	require.NoError(t, err)
	require.Same(t, ep, found)
	require.NoError(t, ep.Release(t.Context()))
	again := attach(t, e, "web", "inside")
	require.NotSame(t, ep, again)
	require.NoError(t, ep.Release(t.Context()), "it is released")
	found, err = e.Endpoint(t.Context(), "web")
	require.NoError(t, err)
	require.Same(t, again, found)
}

// The handle of an endpoint stays valid when its network changes around it.
func TestHandleAfterNetworkChange(t *testing.T) {
	e, b := openFake(t)
	create(t, e, "inside", "172.30.0.0/24")
	ep := attach(t, e, "web", "inside", "80")
	s, err := e.State(t.Context())
	require.NoError(t, err)
	s.Networks = []nat.Network{netOf(t, "wider", "172.30.0.0/16")}
	s.Endpoints[0].Network = "wider"
	_, err = e.ApplyState(t.Context(), s)
	require.NoError(t, err)

	require.Equal(t, "wider", ep.Network())
	require.Equal(t, "172.30.0.2/16", ep.Address().String())
	found, err := e.Endpoint(t.Context(), "web")
	require.NoError(t, err)
	require.Same(t, ep, found)
	require.Len(t, portsOfEndpoint(ep), 1)
	require.NoError(t, ep.Release(t.Context()))
	_, err = e.Endpoint(t.Context(), "web")
	require.ErrorIs(t, err, nat.ErrNotFound)
	requireConsistent(t, b, e)
}
