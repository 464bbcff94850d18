// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"errors"
	"io"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// wholeState has everything that there is to say.
func wholeState(t *testing.T) nat.State {
	t.Helper()
	web, err := nat.ParseEndpointSpec("web", "inside", "172.30.0.2", "8080:80", "192.0.2.1:53:53/udp", "8000-8009:9000-9009")
	require.NoError(t, err)
	bare, err := nat.ParseEndpointSpec("bare", "six", "fd00:30::7")
	require.NoError(t, err)
	dns := parse(t, "[2001:db8::1]:53->[fd00::2]:53/udp")
	dns.Name, dns.NoProxy = "dns", true
	return nat.State{
		Networks: []nat.Network{complete(inside(t)), {
			Name: "six", Prefix: netip.MustParsePrefix("fd00:30::/64"), Gateway: netip.MustParseAddr("fd00:30::1"),
			Next: netip.MustParseAddr("fd00:30::100"), NoMasquerade: true, NoGuard: true,
		}},
		Endpoints: []nat.EndpointSpec{bare, web},
		Mappings:  []nat.Mapping{parse(t, "1-9->172.17.0.2:1-9"), dns},
	}
}

// A state comes out of its document as it went in, by either way of reading it.
func TestStateRoundTrip(t *testing.T) {
	for _, want := range []nat.State{{}, wholeState(t)} {
		text, err := json.Marshal(stateOf(want))
		require.NoError(t, err)
		got, err := decodeState(text, timeZero())
		require.NoError(t, err)
		require.Equal(t, want, got)
		var doc state
		require.NoError(t, json.Unmarshal(text, &doc))
		got, err = doc.state()
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	require.JSONEq(t, `{"networks":[],"endpoints":[],"mappings":[]}`, encode(t, stateOf(nat.State{})))
	require.JSONEq(t, `{
		"networks":[
			{"name":"inside","prefix":"172.30.0.0/24","gateway":"172.30.0.1","next":"172.30.0.2"},
			{"name":"six","prefix":"fd00:30::/64","gateway":"fd00:30::1","masquerade":false,"guard":false,"next":"fd00:30::100"}],
		"endpoints":[
			{"name":"bare","network":"six","address":"fd00:30::7"},
			{"name":"web","network":"inside","address":"172.30.0.2","ports":["8080:80","192.0.2.1:53:53/udp","8000-8009:9000-9009"]}],
		"mappings":[
			{"proto":"tcp","port":1,"count":9,"backend":"172.17.0.2:1"},
			{"proto":"udp","host":"2001:db8::1","port":53,"backend":"[fd00::2]:53","name":"dns","proxy":false}]}`,
		encode(t, stateOf(wholeState(t))))
	for _, text := range []string{`{"mappings":[]}`, ` { "endpoints" : [ ] , "networks":[]}` + "\n"} {
		got, err := decodeState([]byte(text), timeZero())
		require.NoError(t, err, text)
		require.Empty(t, got)
	}
}

func TestDecodeStateRefuses(t *testing.T) {
	for _, tt := range []struct {
		body, want string
		status     int
	}{
		{"", "it ends too early", 400},
		{"[]", "it is not an object of networks, endpoints and mappings", 400},
		{"null", "it is not an object", 400},
		{"{", "it ends too early", 400},
		{"{}{}", "there is more after the object", 400},
		{`{"networks":[]`, "it ends too early", 400},
		{`{"networks":[],}`, "invalid character '}'", 400},
		{`{"networks":[]"mappings":[]}`, "invalid character", 400},
		{`{"networks":null}`, "it is not an array of networks", 400},
		{`{"endpoints":{}}`, "it is not an array of endpoints", 400},
		{`{"mappings":5}`, "it is not an array of mappings", 400},
		{`{"Networks":[]}`, `unknown field "Networks"`, 400},
		{`{"\u006eetworks":[]}`, `unknown field "\\u006eetworks"`, 400},
		{`{"networks":[],"mappings":[],"networks":[]}`, `field "networks" is given twice`, 400},
		{`{"networks":[{"name":"a","prefix":"10.0.0.0/8","Gateway":"x"}]}`, `network 0: unknown field "Gateway"`, 400},
		{`{"networks":[{"name":"a","name":"b"}]}`, `network 0: field "name" is given twice`, 400},
		{`{"networks":["a"]}`, "network 0: a string where an object belongs", 400},
		{`{"networks":[{"name":"a","prefix":"10.0.0.0/8"},{"name":"a","prefix":"10.0.0.0"}]}`, `network 1: invalid prefix "10.0.0.0"`, 422},
		{`{"networks":[{"name":"a","prefix":"10.0.0.0/8","next":"fe80::1%"}]}`, `network 0: invalid next address "fe80::1%"`, 422},
		{`{"endpoints":[{"name":"a","ports":{}}]}`, "endpoint 0: ports cannot be a object", 400},
		{`{"endpoints":[{"name":"a","ports":[["80"]]}]}`, "endpoint 0: ports cannot be a array", 400},
		{`{"endpoints":[{"name":"a","ports":["name","name"],"prots":[]}]}`, `endpoint 0: unknown field "prots"`, 400},
		{`{"endpoints":[{"name":"a","ports":["80/sctp"]}]}`, "endpoint 0: Invalid port format: unknown protocol sctp.", 422},
		{`{"endpoints":[{"name":"a","address":"1.2.3"}]}`, `endpoint 0: invalid address "1.2.3"`, 422},
		{`{"mappings":[{}]}`, `mapping 0: unknown protocol ""`, 422},
		{`{"networks":[` + strings.Repeat(`{"name":"a","prefix":"10.0.0.0/8"},`, maxNetworks) + `{"name":"a","prefix":"10.0.0.0/8"}]}`,
			"about more than 4096 networks", 422},
		{`{"endpoints":[` + strings.Repeat(`{"name":"a"},`, maxEndpoints) + `{"name":"a"}]}`, "about more than 65536 endpoints", 422},
		{`{"endpoints":[{"name":"a","ports":[` + strings.Repeat(`"1-65535",`, 4) + `"1-65535"]}]}`, "about more than 262144 ports", 422},
		{`{"mappings":` + ranges(4) + `,"endpoints":[{"name":"a","ports":["1-65535"]}]}`, "about more than 262144 ports", 422},
	} {
		_, err := decodeState([]byte(tt.body), timeZero())
		var p *Problem
		require.ErrorAs(t, err, &p, "%.80s", tt.body)
		require.Equal(t, tt.status, p.Status, "%.80s", tt.body)
		require.ErrorIs(t, err, nat.ErrInvalid)
		require.ErrorContains(t, err, tt.want)
	}
}

// Who names YAML first gets it, all others JSON.
func TestStateForms(t *testing.T) {
	fake := newFake(parse(t, "8080->172.17.0.2:80"))
	opts := Options{Engine: fake, Encode: func(w io.Writer, s nat.State) error {
		_, err := io.WriteString(w, s.Mappings[0].String())
		return err
	}}
	get := func(accept ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/v1/state", nil)
		for _, a := range accept {
			r.Header.Add("Accept", a)
		}
		return ask(newHandler(opts, defaultLimits()), r)
	}
	for _, accept := range [][]string{{"application/yaml"}, {"text/html, application/yaml;q=0.5, */*"}, {"text/html", "Application/YAML"}} {
		w := get(accept...)
		require.Equal(t, "application/yaml", w.Header().Get("Content-Type"), accept)
		require.Equal(t, "8080->172.17.0.2:80", w.Body.String())
	}
	for _, accept := range [][]string{nil, {""}, {"*/*"}, {"application/json, application/yaml"}, {"application/*,application/yaml"}, {"text/html"}, {";"}} {
		require.Equal(t, "application/json", get(accept...).Header().Get("Content-Type"), accept)
	}
	opts.Encode = func(io.Writer, nat.State) error { return errors.New("it broke") }
	require.Equal(t, 500, get("application/yaml").Code)
	opts.Encode = nil
	require.Equal(t, "application/json", get("application/yaml").Header().Get("Content-Type"))
}

// Whatever comes as a body is taken or refused; nothing is done by halves.
func FuzzStateBody(f *testing.F) {
	for _, s := range []string{
		"{}", "[]", `{"networks":[{"name":"a","prefix":"10.0.0.0/8","guard":false}],"mappings":[]}`,
		`{"networks":[{"name":"a","prefix":"fd00::/64"}],"endpoints":[{"name":"web","network":"a","address":"fd00::2","ports":["8080:80","[::1]:53:53/udp"]}]}`,
		`{"mappings":[{"proto":"tcp","port":1,"backend":"172.17.0.2:80","count":2,"ttl":"1h"}]}`, `{"endpoints":[{"name":"a","ports":["a","b"]`,
	} {
		f.Add("PUT", []byte(s))
		f.Add("POST", []byte(s))
	}
	f.Add("POST", []byte(`{"name":"web","network":"inside","ports":["8080:80","[::1]:53:53/udp"]}`))
	f.Add("POST", []byte(`{"name":"outside","prefix":"10.0.0.0/8","gateway":"10.0.0.1","next":"10.0.0.7","masquerade":true}`))
	f.Fuzz(func(t *testing.T, method string, body []byte) {
		paths := []string{"/v1/endpoints", "/v1/networks"}
		if method == "PUT" {
			paths = []string{"/v1/state"}
		} else {
			method = "POST"
		}
		for _, path := range paths {
			fake := newFake()
			fake.networks["inside"] = complete(inside(t))
			before, networks, endpoints := fake.all()
			h := newHandler(Options{Engine: fake}, defaultLimits())
			r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(string(body)))
			r.Header.Set("Content-Type", "application/json")
			w := ask(h, r)
			require.Less(t, w.Code, 500)
			if w.Code < 400 {
				require.True(t, json.Valid(w.Body.Bytes()))
				continue
			}
			problemIn(t, w)
			after, networksAfter, endpointsAfter := fake.all()
			require.Equal(t, before, after)
			require.Equal(t, networks, networksAfter)
			require.Equal(t, endpoints, endpointsAfter)
		}
	})
}
