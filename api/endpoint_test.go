// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// webEndpoint is an endpoint with ports of every kind.
func webEndpoint(t *testing.T, ms ...string) nat.Endpoint {
	t.Helper()
	ep := nat.Endpoint{
		Name: "web", Network: "bridge", Address: netip.MustParseAddr("172.17.0.2"),
		Prefix: netip.MustParsePrefix("172.17.0.0/16"), Gateway: netip.MustParseAddr("172.17.0.1"),
	}
	for _, text := range ms {
		m := parse(t, text)
		m.Name = "web"
		ep.Mappings = append(ep.Mappings, m)
	}
	return ep
}

// The document is a contract since 2013, to the byte.
func TestInspect(t *testing.T) {
	const head = `{"Name":"web","NetworkSettings":{"IPAddress":"172.17.0.2","IPPrefixLen":16,"Gateway":"172.17.0.1","Bridge":"","PortMapping":`
	for _, tt := range []struct {
		ms   []string
		want string
	}{
		{nil, `{"Tcp":{},"Udp":{}}`},
		{[]string{"49153->172.17.0.2:80", "53->172.17.0.2:53/udp"}, `{"Tcp":{"80":"49153"},"Udp":{"53":"53"}}`},
		// The lowest frontend, in numbers: 9 is less than 10.
		{[]string{"10->172.17.0.2:80", "9->172.17.0.2:80", "192.0.2.1:11->172.17.0.2:80"}, `{"Tcp":{"80":"9"},"Udp":{}}`},
		{[]string{"8000-8002->172.17.0.2:99-101/udp", "192.0.2.1:7->172.17.0.2:100/udp"}, `{"Tcp":{},"Udp":{"100":"7","101":"8002","99":"8000"}}`},
	} {
		require.Equal(t, head+tt.want+"}}", encode(t, Inspect(webEndpoint(t, tt.ms...))))
	}
}

func TestEndpointDocument(t *testing.T) {
	ep := webEndpoint(t, "8000-8001->172.17.0.2:80-81")
	text := encode(t, EndpointOf(ep))
	require.JSONEq(t, `{"name":"web","network":"bridge","address":"172.17.0.2","prefix":"172.17.0.0/16","gateway":"172.17.0.1","mappings":[
		{"proto":"tcp","host":"","port":8000,"backend":"172.17.0.2:80","name":"web","proxy":true},
		{"proto":"tcp","host":"","port":8001,"backend":"172.17.0.2:81","name":"web","proxy":true}]}`, text)
	var doc Endpoint
	require.NoError(t, json.Unmarshal([]byte(text), &doc))
	read, err := doc.endpoint()
	require.NoError(t, err)
	require.Equal(t, ep, read)
	require.Contains(t, encode(t, EndpointOf(webEndpoint(t))), `"mappings":[]`)
	for _, bad := range []string{
		`{}`, `{"address":"1.2.3.4"}`, `{"address":"1.2.3.4","prefix":"1.2.3.0/24"}`,
		`{"address":"1.2.3.4","prefix":"1.2.3.0/24","gateway":"1.2.3.1","mappings":[{}]}`,
	} {
		var doc Endpoint
		require.NoError(t, json.Unmarshal([]byte(bad), &doc), bad)
		_, err := doc.endpoint()
		require.Error(t, err, bad)
	}
}

// Of a state, an endpoint's mappings are its ports, and what has its name, leads to its
// address and says more than a port spec.
func TestEndpointsOf(t *testing.T) {
	s := wholeState(t)
	more := parse(t, "90->172.30.0.2:90")
	more.Name, more.NoProxy = "web", true
	until := parse(t, "91->172.30.0.2:91")
	until.Name, until.Expires = "web", time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC)
	elsewhere := parse(t, "92->172.30.0.3:92")
	elsewhere.Name = "web"
	s.Mappings = append(s.Mappings, more, until, elsewhere, parse(t, "93->172.30.0.2:93"))
	eps := nat.EndpointsOf(s)
	require.Len(t, eps, 2)
	require.Equal(t, nat.Endpoint{
		Name: "bare", Network: "six", Address: netip.MustParseAddr("fd00:30::7"),
		Prefix: netip.MustParsePrefix("fd00:30::/64"), Gateway: netip.MustParseAddr("fd00:30::1"),
	}, eps[0])
	var texts []string
	for _, m := range eps[1].Mappings {
		require.Equal(t, "web", m.Name)
		texts = append(texts, m.String())
	}
	require.Equal(t, []string{
		"90->172.30.0.2:90", "91->172.30.0.2:91", "8000-8009->172.30.0.2:9000-9009", "8080->172.30.0.2:80", "192.0.2.1:53->172.30.0.2:53/udp",
	}, texts)
	require.Empty(t, nat.EndpointsOf(nat.State{}))
	require.Equal(t, "[]", encode(t, Endpoints(nil)))
}

func TestNetworkDocuments(t *testing.T) {
	s := wholeState(t)
	docs := Networks(s)
	require.JSONEq(t, `[
		{"name":"inside","prefix":"172.30.0.0/24","gateway":"172.30.0.1","masquerade":true,"guard":true,"next":"172.30.0.2","endpoints":1},
		{"name":"six","prefix":"fd00:30::/64","gateway":"fd00:30::1","masquerade":false,"guard":false,"next":"fd00:30::100","endpoints":1}]`,
		encode(t, docs))
	for i := range docs {
		n, err := docs[i].network()
		require.NoError(t, err)
		require.Equal(t, s.Networks[i], n)
	}
	require.Equal(t, "[]", encode(t, Networks(nat.State{})))
}

// The client returns what the engine does, of networks and endpoints.
func TestClientMirrorsEndpoints(t *testing.T) {
	direct := newFake()
	s := start(t, Options{Engine: newFake()}, defaultLimits())
	ctx := t.Context()
	same := func(want, got any, wantErr, gotErr error) {
		t.Helper()
		if wantErr != nil {
			require.EqualError(t, gotErr, wantErr.Error())
			for _, k := range kinds() {
				require.Equal(t, errors.Is(wantErr, k.err), errors.Is(gotErr, k.err), "%v", k.err)
			}
			var taken, gotTaken *nat.TakenError
			errors.As(wantErr, &taken)
			errors.As(gotErr, &gotTaken)
			require.Equal(t, taken, gotTaken)
			return
		}
		require.NoError(t, gotErr)
		require.Equal(t, want, got)
	}
	six := nat.Network{Name: "six", Prefix: netip.MustParsePrefix("fd00::/64"), NoMasquerade: true, NoGuard: true, Next: netip.MustParseAddr("fd00::9")}
	for _, n := range []nat.Network{inside(t), six, six, {Name: "a b", Prefix: six.Prefix}} {
		want, wantErr := direct.CreateNetwork(ctx, n)
		got, gotErr := s.CreateNetwork(ctx, n)
		same(want, got, wantErr, gotErr)
	}
	web, err := nat.ParseEndpointSpec("web", "inside", "", "8080:80", "80", "8000-8009:9000-9009/udp", "192.0.2.1:81:80")
	require.NoError(t, err)
	dns, err := nat.ParseEndpointSpec("dns", "six", "fd00::53", "53:53/udp", "[2001:db8::1]:53:53")
	require.NoError(t, err)
	again, nowhere := dns, dns
	again.Name, nowhere.Name, nowhere.Network = "again", "nowhere", "nowhere"
	for _, a := range []nat.EndpointSpec{web, dns, dns, again, nowhere} {
		want, wantErr := direct.Attach(ctx, a)
		got, gotErr := s.Attach(ctx, a)
		same(want, got, wantErr, gotErr)
	}
	want, err := direct.State(ctx)
	require.NoError(t, err)
	got, gotErr := s.State(ctx)
	same(want, got, nil, gotErr)
	eps, gotErr := s.Endpoints(ctx)
	same(nat.EndpointsOf(want), eps, nil, gotErr)
	networks, gotErr := s.Networks(ctx)
	same(want.Networks, networks, nil, gotErr)
	for _, name := range []string{"web", "dns", "nobody", "six"} {
		ep, wantErr := direct.Endpoint(ctx, name)
		gotEp, gotErr := s.Endpoint(ctx, name)
		same(ep, gotEp, wantErr, gotErr)
		doc, gotErr := s.Inspect(ctx, name)
		same(Inspect(ep), doc, wantErr, gotErr)
		n, wantErr := direct.Network(ctx, name)
		gotN, gotErr := s.Network(ctx, name)
		same(n, gotN, wantErr, gotErr)
	}
	for _, apply := range []struct {
		direct, client func(context.Context, nat.State) ([]nat.Change, error)
	}{{direct.DiffState, s.DiffState}, {direct.ApplyState, s.ApplyState}} {
		want, wantErr := apply.direct(ctx, wholeState(t))
		require.NoError(t, wantErr)
		got, gotErr := apply.client(ctx, wholeState(t))
		require.NoError(t, gotErr)
		require.ElementsMatch(t, want, got)
	}
	for _, name := range []string{"web", "web", "bare"} {
		want, wantErr := direct.Detach(ctx, name)
		got, gotErr := s.Detach(ctx, name)
		same(want, got, wantErr, gotErr)
	}
	for _, name := range []string{"six", "six", "nowhere"} {
		same(nil, nil, direct.RemoveNetwork(ctx, name), s.RemoveNetwork(ctx, name))
	}
	got, gotErr = s.State(ctx)
	want, err = direct.State(ctx)
	require.NoError(t, err)
	same(want, got, nil, gotErr)

	// What cannot be a name is no part of another path.
	for _, name := range []string{"", "a/b", "..", "a?b=true", "a%2fb", "a\nb"} {
		_, err := s.Inspect(ctx, name)
		require.ErrorIs(t, err, nat.ErrInvalid, name)
		_, err = s.Detach(ctx, name)
		require.ErrorIs(t, err, nat.ErrInvalid, name)
		require.ErrorIs(t, s.RemoveNetwork(ctx, name), nat.ErrInvalid, name)
	}
}
