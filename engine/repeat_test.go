// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// counted counts the transactions of the kernel from here on.
func (b *testbed) counted() *int {
	n := new(int)
	b.kernel.Hook(func(op string) error {
		if op == "Update" || op == "Replace" || op == "Restore" || op == "Repair" {
			*n++
		}
		return nil
	})
	return n
}

// Publishing again what is there just like that is done, and does nothing.
func TestPublishAgain(t *testing.T) {
	for _, owning := range []bool{true, false} {
		b := newTestbed()
		b.owning = owning
		e := b.open(t)
		ms := mapAll(t, "80->172.30.0.2:80", "8000-8009->172.30.0.2:9000-9009/udp", local4+":81->172.30.0.2:81")
		ms[0].Name, ms[1].NoProxy = "web", true
		ms[2].Expires = b.clock.Now().Add(time.Hour)
		var r nat.Report
		_, err := e.Publish(nat.WithReport(t.Context(), &r), nat.PublishOptions{}, ms...)
		require.NoError(t, err)
		require.False(t, r.Unchanged)
		transactions, before := b.counted(), b.kernel.Dump()
		for _, again := range [][]nat.Mapping{ms, ms[:1], {ms[1]}, slices.Collect(nat.Expand(ms[1]))[3:5]} {
			done, err := e.Publish(nat.WithReport(t.Context(), &r), nat.PublishOptions{}, again...)
			require.NoError(t, err)
			require.Equal(t, again, done)
			require.True(t, r.Unchanged)
			done, err = e.Publish(nat.WithReport(t.Context(), &r), nat.PublishOptions{Replace: true}, again...)
			require.NoError(t, err)
			require.Equal(t, again, done)
			require.True(t, r.Unchanged)
		}
		require.Zero(t, *transactions)
		require.Equal(t, before, b.kernel.Dump())

		// What differs in anything does not pass for it.
		for _, change := range []func(*nat.Mapping){
			func(m *nat.Mapping) { m.Name = "other" },
			func(m *nat.Mapping) { m.Name = "" },
			func(m *nat.Mapping) { m.NoProxy = true },
			func(m *nat.Mapping) { m.Expires = b.clock.Now().Add(time.Hour) },
			func(m *nat.Mapping) { m.Backend = ms[2].Backend },
		} {
			other := ms[0]
			change(&other)
			_, err := e.Publish(nat.WithReport(t.Context(), &r), nat.PublishOptions{}, other)
			require.ErrorIs(t, err, nat.ErrConflict)
			require.Equal(t, nat.Report{}, r)
		}
		require.Zero(t, *transactions)

		// A lease is renewed, and of more than is there the rest is published.
		later := ms[2]
		later.Expires = later.Expires.Add(time.Minute)
		_, err = e.Publish(nat.WithReport(t.Context(), &r), nat.PublishOptions{}, later)
		require.NoError(t, err)
		require.False(t, r.Unchanged)
		wider := ms[1]
		wider.More += 2
		_, err = e.Publish(nat.WithReport(t.Context(), &r), nat.PublishOptions{}, wider)
		require.NoError(t, err)
		require.False(t, r.Unchanged)
		require.Equal(t, 2, *transactions)
		require.Contains(t, publishedBy(e), "8000-8011->172.30.0.2:9000-9011/udp no-proxy")
		requireConsistent(t, b, e)
	}
}

// What others have deleted of an open table is published again, and not taken to be there.
func TestPublishAgainAfterOthers(t *testing.T) {
	e, b := openFake(t)
	ms := publish(t, e, "79->172.30.0.2:80", "80->172.30.0.2:80")
	b.drop(t, "tcp4 { 80 ")
	var r nat.Report
	_, err := e.Publish(nat.WithReport(t.Context(), &r), nat.PublishOptions{}, ms[1])
	require.NoError(t, err)
	require.False(t, r.Unchanged)
	require.Contains(t, elementsIn(b.kernel.Dump()), "tcp4 { 80 : 172.30.0.2 . 80 }")
	requireConsistent(t, b, e)
}

// A mapping without a name keeps the names that there are, port by port.
func TestReplaceKeepsNames(t *testing.T) {
	e, b := openFake(t)
	ms := mapAll(t, "80-81->172.30.0.2:80-81", "82->172.30.0.2:82")
	ms[0].Name, ms[1].Name = "web", "api"
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, ms...)
	require.NoError(t, err)
	done, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, mapAll(t, "90->172.30.0.2:90", "80-83->172.30.0.3:80-83")...)
	require.NoError(t, err)
	want := []string{"90->172.30.0.2:90", "80-81->172.30.0.3:80-81 web", "82->172.30.0.3:82 api", "83->172.30.0.3:83"}
	for i, m := range done {
		require.Equal(t, want[i], inWords(m))
	}
	require.ElementsMatch(t, want, publishedBy(e))
	requireConsistent(t, b, e)
}

// What is put in the place of a program's mapping is not the program's, unless it says so itself.
func TestReplaceLeavesNames(t *testing.T) {
	e, b := openFake(t)
	ms := mapAll(t, "80->172.30.0.2:80", "81->172.30.0.2:81")
	ms[0].Name, ms[1].Name = "cni:a", "cni:a"
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, ms...)
	require.NoError(t, err)
	next := mapAll(t, "80->172.30.0.2:80", "81->172.30.0.3:81")
	_, err = e.Publish(t.Context(), nat.PublishOptions{Replace: true}, next[0])
	require.NoError(t, err)
	_, err = e.Publish(t.Context(), nat.PublishOptions{Replace: true, IfName: "cni:a"}, next[1])
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"80->172.30.0.2:80", "81->172.30.0.3:81 cni:a"}, publishedBy(e))
	requireConsistent(t, b, e)
}

func TestRemove(t *testing.T) {
	e, b := openFake(t)
	ms := mapAll(t, "80-82->172.30.0.2:80-82", "83->172.30.0.9:83", "90->172.30.0.2:80", "91->172.30.0.2:91")
	for i, name := range []string{"web", "web", "api", ""} {
		ms[i].Name = name
	}
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, ms...)
	require.NoError(t, err)
	before, transactions := b.kernel.Dump(), b.counted()
	for _, tt := range []struct {
		what nat.Removal
		says string
		kind error
	}{
		{nat.Removal{Mappings: mapAll(t, "90->172.30.0.3:80"), Exact: true},
			`unpublish tcp 90: 90->172.30.0.3:80 is not published: tcp 90 is published as 90->172.30.0.2:80 by "api"`, nat.ErrNotFound},
		{nat.Removal{Mappings: mapAll(t, "81-84->172.30.0.2:81-84"), Exact: true}, `unpublish tcp 81-84: 83->172.30.0.2:83 is not published: tcp 83 is published as 83->172.30.0.9:83 by "web"`, nat.ErrNotFound},
		{nat.Removal{Mappings: mapAll(t, "91->172.30.0.2:91", "80-82->172.30.0.2:81-83"), Exact: true},
			`unpublish tcp 91 and 1 more: 80->172.30.0.2:81 is not published: tcp 80 is published as 80->172.30.0.2:80 by "web"`, nat.ErrNotFound},
		{nat.Removal{Name: "nobody"}, `unpublish all of "nobody": there is no mapping named "nobody"`, nat.ErrNotFound},
		{nat.Removal{Name: "a\nb"}, `invalid name "a\nb": name has a control character at byte 2`, nat.ErrInvalid},
		{nat.Removal{Name: "api", Mappings: mapAll(t, "80->172.30.0.2:80")},
			`unpublish tcp 80: tcp 80 of "api" is not published: tcp 80 is published as 80->172.30.0.2:80 by "web"`, nat.ErrNotFound},
	} {
		done, err := e.Remove(t.Context(), tt.what)
		require.EqualError(t, err, tt.says)
		require.ErrorIs(t, err, tt.kind)
		require.NotErrorIs(t, err, nat.ErrConflict)
		require.Nil(t, done)
	}
	require.Equal(t, before, b.kernel.Dump())
	require.Zero(t, *transactions)

	done, err := e.Remove(t.Context(), nat.Removal{Name: "web"})
	require.NoError(t, err)
	require.Equal(t, ms[:2], done)
	require.Equal(t, 1, *transactions, "all of them at once")
	done, err = e.Remove(t.Context(), nat.Removal{Mappings: mapAll(t, "90->172.30.0.2:80"), Exact: true})
	require.NoError(t, err)
	require.Equal(t, ms[2:3], done)
	done, err = e.Remove(t.Context(), nat.Removal{Mappings: mapAll(t, "91->172.30.0.9:1")})
	require.NoError(t, err)
	require.Equal(t, ms[3:], done, "wherever it leads")
	requireConsistent(t, b, e)
}

// What a call does beside the table is told to the log and to its report alike, and to no
// other call's.
func TestReportNotes(t *testing.T) {
	b := newTestbed()
	b.kernelWith(t, true)
	var log bytes.Buffer
	e := b.openWith(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	var r nat.Report
	_, err := e.Publish(nat.WithReport(t.Context(), &r), nat.PublishOptions{}, nattest.Mapping(t, "80->172.30.0.2:80"))
	require.NoError(t, err)
	require.Equal(t, []string{"turned on forwarding: sysctl=net/ipv4/ip_forward was=0 is=1"}, r.Notes)
	require.Equal(t, 1, strings.Count(log.String(), "turned on forwarding"))
	_, err = e.Publish(nat.WithReport(t.Context(), &r), nat.PublishOptions{}, nattest.Mapping(t, "81->172.30.0.2:80"))
	require.NoError(t, err)
	require.Empty(t, r.Notes)
	_, err = e.Publish(nat.WithReport(t.Context(), &r), nat.PublishOptions{}, nattest.Mapping(t, "82->[fd00:30::2]:80"))
	require.NoError(t, err)
	require.NotEmpty(t, r.Notes)
	other := r
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "83->203.0.113.9:80"))
	require.NoError(t, err)
	require.Equal(t, other, r, "of another call")
	b.kernel.Hook(func(string) error { return nat.ErrForeign })
	b.writeSysctl(t, forwarding4, "0")
	_, err = e.Publish(nat.WithReport(t.Context(), &r), nat.PublishOptions{}, nattest.Mapping(t, "84->172.30.0.2:80"))
	require.Error(t, err)
	require.Equal(t, nat.Report{}, r)
}

func TestAttachAgain(t *testing.T) {
	e, b := openFake(t)
	n := netOf(t, "inside", "172.30.0.0/24")
	made, err := e.CreateNetwork(t.Context(), n)
	require.NoError(t, err)
	asks := func(network, address string, specs ...string) nat.EndpointSpec {
		a, err := nat.ParseEndpointSpec("web", network, address, specs...)
		require.NoError(t, err)
		return a
	}
	ep, err := e.Attach(t.Context(), asks("inside", "", "8080:80", "443", "53/udp", "70-72", "8000-8001:9000-9001"))
	require.NoError(t, err)
	other := nattest.Mapping(t, "99->172.30.0.2:99")
	other.Name, other.NoProxy = "web", true // which no spec says
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, other)
	require.NoError(t, err)

	before, transactions := b.kernel.Dump(), b.counted()
	var r nat.Report
	for _, a := range []nat.EndpointSpec{
		asks("inside", "", "8080:80", "443", "53/udp", "70-72", "8000-8001:9000-9001"),
		asks("", "", "443", "70-72", "8080:80", "8000:9000", "8001:9001", "53/udp"),
		asks("", "172.30.0.2", "49153:443", "70", "71-72", "8080:80", "8000-8001:9000-9001", "49153:53/udp"),
	} {
		again, err := e.Attach(nat.WithReport(t.Context(), &r), a)
		require.NoError(t, err, a)
		require.Same(t, ep, again)
		require.True(t, r.Unchanged)
	}
	for _, a := range []nat.EndpointSpec{
		asks("inside", "", "8080:80", "443", "53/udp", "70-72"),
		asks("inside", "", "8080:80", "443", "53/udp", "70-72", "8000-8001:9000-9001", "1"),
		asks("inside", "", "8081:80", "443", "53/udp", "70-72", "8000-8001:9000-9001"),
		asks("inside", "", "80", "443", "53/udp", "70-72", "8000-8001:9000-9001"), // 8080 is none that is chosen
		asks("inside", "", "8080:80", "443", "53", "70-72", "8000-8001:9000-9001"),
		asks("inside", "172.30.0.3", "8080:80", "443", "53/udp", "70-72", "8000-8001:9000-9001"),
		asks("outside", "", "8080:80", "443", "53/udp", "70-72", "8000-8001:9000-9001"),
		asks("inside", ""),
	} {
		_, err := e.Attach(nat.WithReport(t.Context(), &r), a)
		require.ErrorIs(t, err, nat.ErrConflict, a)
		require.False(t, r.Unchanged)
	}

	for _, next := range []netip.Addr{{}, netip.MustParseAddr("172.30.0.3")} {
		same := n
		same.Next = next
		got, err := e.CreateNetwork(nat.WithReport(t.Context(), &r), same)
		require.NoError(t, err)
		require.True(t, r.Unchanged)
		require.Equal(t, made.Gateway, got.Gateway)
		require.Equal(t, "172.30.0.3", got.Next.String())
	}
	for _, change := range []func(*nat.Network){
		func(n *nat.Network) { n.NoGuard = true },
		func(n *nat.Network) { n.NoMasquerade = true },
		func(n *nat.Network) { n.Gateway = netip.MustParseAddr("172.30.0.9") },
		func(n *nat.Network) { n.Next = netip.MustParseAddr("172.30.0.9") },
		func(n *nat.Network) { n.Prefix = netOf(t, "", "172.30.0.0/25").Prefix },
	} {
		differs := n
		change(&differs)
		_, err := e.CreateNetwork(nat.WithReport(t.Context(), &r), differs)
		require.ErrorIs(t, err, nat.ErrConflict)
	}
	require.Zero(t, *transactions)
	require.Equal(t, before, b.kernel.Dump())
}
