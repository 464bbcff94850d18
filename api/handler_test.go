// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// ask answers a request without a socket.
func ask(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// strangerAsks sends a request by a connection whose client may not do anything.
func strangerAsks(t *testing.T, h http.Handler, method, path string) *httptest.ResponseRecorder {
	t.Helper()
	c := &conn{refusal: errNotAllowed(1000)}
	ctx := context.WithValue(t.Context(), connKey{}, c)
	return ask(h, httptest.NewRequestWithContext(ctx, method, path, strings.NewReader("[]")))
}

func TestRouting(t *testing.T) {
	const json, yaml = "application/json", "application/yaml"
	tests := []struct {
		method, path, contentType, body string
		want                            int
		detail                          string
	}{
		{"GET", "/", "", "", 404, `there is no "/"`},
		{"GET", "/v1", "", "", 404, ""},
		{"GET", "/v1/mappings/", "", "", 404, ""},
		{"GET", "//v1/mappings", "", "", 404, ""},
		{"GET", "/v1/../v1/mappings", "", "", 404, ""},
		{"GET", "/V1/mappings", "", "", 404, ""},
		{"GET", "/v1/mappings/tcp", "", "", 404, ""},
		{"DELETE", "/v1/mappings/tcp/8080/", "", "", 404, ""},
		{"GET", "/v1/%6dappings", "", "", 200, ""},
		{"GET", "/v1%2fmappings", "", "", 404, ""},
		{"HEAD", "/v1/mappings", "", "", 200, ""},
		{"PATCH", "/v1/networks", json, "[]", 405, `PATCH is not a method of "/v1/networks"`},
		{"DELETE", "/v1/mappings", "", "", 400, "name"},
		{"OPTIONS", "/v1/status", "", "", 405, ""},
		{"POST", "/metrics", "", "", 405, ""},
		{"GET", "/v1/mappings/tcp/8080", "", "", 405, ""},

		{"GET", "/v1/mappings?x=true", "", "", 400, `unknown parameter "x"`},
		{"GET", "/v1/mappings?%", "", "", 400, "invalid URL escape"},
		{"GET", "/v1/mappings?a;b", "", "", 400, "semicolon"},
		{"GET", "/v1/mappings", json, "[]", 400, "GET has no body"},
		{"DELETE", "/v1/mappings/tcp/8080", json, "[]", 400, "DELETE has no body"},
		{"POST", "/v1/mappings?replace=1", json, "[]", 400, `parameter "replace" is not once true or false`},
		{"POST", "/v1/mappings?replace", json, "[]", 400, "not once"},
		{"POST", "/v1/mappings?replace=true&replace=true", json, "[]", 400, "not once"},
		{"POST", "/v1/mappings?dry-run=true", json, "[]", 400, "unknown parameter"},
		{"POST", "/v1/mappings?kill=true", json, "[]", 400, `parameter "kill" is for what "replace" replaces`},
		{"DELETE", "/v1/mappings/tcp/8080?replace=true", "", "", 400, "unknown parameter"},

		{"POST", "/v1/mappings", "", "[]", 415, `the body is "" and not application/json`},
		{"POST", "/v1/mappings", "text/json", "[]", 415, ""},
		{"POST", "/v1/mappings", "application/json; charset", "[]", 415, ""},
		{"POST", "/v1/mappings", yaml, "[]", 415, ""},
		{"PUT", "/v1/mappings", "text/yaml", "[]", 415, "application/json or application/yaml"},
		{"POST", "/v1/mappings", "application/json; charset=utf-8", "[]", 201, ""},
		{"POST", "/v1/mappings", "Application/JSON", "[]", 201, ""},
		{"PUT", "/v1/mappings", yaml, "good", 200, ""},
		{"PUT", "/v1/mappings", yaml, "invalid", 422, "invalid file"},
		{"PUT", "/v1/mappings", yaml, "very much", 422, "read body: it is about more than 262144 ports"},
		{"POST", "/v1/mappings", json, ranges(4), 201, ""},
		{"POST", "/v1/mappings", json, ranges(5), 422, "read body: it is about more than 262144 ports"},
		{"PUT", "/v1/mappings", yaml, "unreadable", 400, "read body: unreadable"},
		{"PUT", "/v1/mappings", yaml, "a network", 422, "read body: networks and endpoints are no mappings; PUT /v1/state takes all of them"},
		{"PUT", "/v1/state", yaml, "good", 200, ""},
		{"PUT", "/v1/state", yaml, "invalid", 422, "invalid file"},
		{"PUT", "/v1/state", yaml, "very much", 422, "read body: it is about more than 262144 ports"},
		{"PUT", "/v1/state", yaml, "many networks", 422, "read body: it is about more than 4096 networks"},
		{"PUT", "/v1/state", yaml, "many endpoints", 422, "read body: it is about more than 65536 endpoints"},
		{"PUT", "/v1/state", json, `{"mappings":` + ranges(5) + "}", 422, "read body: it is about more than 262144 ports"},
		{"PUT", "/v1/state", "text/yaml", "{}", 415, "application/json or application/yaml"},
		{"PUT", "/v1/state?kill=true", json, "{}", 400, "unknown parameter"},
		{"PUT", "/v1/state", json, "[]", 400, "it is not an object"},
		{"POST", "/v1/state", json, "{}", 405, ""},

		{"POST", "/v1/endpoints", yaml, "{}", 415, ""},
		{"POST", "/v1/endpoints?replace=true", json, "{}", 400, "unknown parameter"},
		{"POST", "/v1/endpoints", json, `{"name":"web"} x`, 400, "there is more after the object"},
		{"POST", "/v1/endpoints", json, `[{"name":"web"}]`, 400, "a array where an object belongs"},
		{"POST", "/v1/endpoints", json, `{"name":"web","ports":[80]}`, 400, "ports cannot be a number"},
		{"POST", "/v1/endpoints", json, `{"name":"web","prots":[]}`, 400, `unknown field "prots"`},
		{"POST", "/v1/endpoints", json, `{"name":"web","ports":["a,b"],"ports":[]}`, 400, `field "ports" is given twice`},
		{"POST", "/v1/endpoints", json, `{"name":"web","ports":["1:1","2:2"],"Network":"x"}`, 400, `unknown field "Network"`},
		{"POST", "/v1/endpoints", json, `{"name":"web","network":"inside","ports":["4503/tcp/udp"]}`, 422, `Invalid port format: "4503/tcp/udp"`},
		{"POST", "/v1/endpoints", json, `{"name":"web","network":"inside","address":"x"}`, 422, `invalid address "x": "x" is not an IP address`},
		{"POST", "/v1/endpoints", json, `null`, 422, `invalid endpoint "": no name is given`},
		{"GET", "/v1/endpoints/web", "", "", 404, `there is no endpoint "web"`},
		{"GET", "/v1/endpoints/a%20b", "", "", 422, `invalid endpoint "a b": name has a byte other than`},
		{"GET", "/v1/endpoints/", "", "", 422, `invalid endpoint "": no name is given`},
		{"GET", "/v1/endpoints/..", "", "", 422, ""},
		{"GET", "/v1/endpoints/web?full=true", "", "", 400, "unknown parameter"},
		{"DELETE", "/v1/endpoints/web%2f", "", "", 422, ""},
		{"DELETE", "/v1/endpoints/web", "", "", 404, `detach web: there is no endpoint "web"`},
		{"DELETE", "/v1/endpoints", "", "", 405, ""},

		{"POST", "/v1/networks", json, `{"name":"a"}`, 422, `invalid prefix ""`},
		{"POST", "/v1/networks", json, `{"name":"a","prefix":"10.0.0.0/8","guard":0}`, 400, "guard cannot be a number"},
		{"POST", "/v1/networks", json, `{"name":"a","prefix":"10.0.0.0/8","endpoints":0}`, 400, `unknown field "endpoints"`},
		{"POST", "/v1/networks", json, `{"name":"a","prefix":"10.0.0.0/8","next":"x"}`, 422, `invalid next address "x": it is not an IP address`},
		{"POST", "/v1/networks", json, `{"name":"a","prefix":"10.0.0.0/8","gateway":"x"}`, 422, `invalid gateway "x"`},
		{"GET", "/v1/networks/a", "", "", 404, `there is no network "a"`},
		{"GET", "/v1/networks/a%00", "", "", 422, `invalid network "a\x00"`},
		{"DELETE", "/v1/networks/a", "", "", 404, `remove network a: there is no network "a"`},
		{"DELETE", "/v1/networks/a?x", "", "", 400, ""},
		{"PUT", "/v1/networks", json, "[]", 405, ""},

		{"DELETE", "/v1/mappings/sctp/8080", "", "", 422, `unknown protocol "sctp": tcp or udp`},
		{"DELETE", "/v1/mappings/TCP/8080", "", "", 422, ""},
		{"DELETE", "/v1/mappings/tcp/0", "", "", 422, `invalid frontend "0": port 0 names no mapping`},
		{"DELETE", "/v1/mappings/tcp/80%2f81", "", "", 422, ""},
		{"DELETE", "/v1/mappings/tcp/" + strings.Repeat("x", 5000), "", "", 422, ""},
		{"DELETE", "/v1/mappings/tcp/%20", "", "", 422, ""},
		{"DELETE", "/v1/mappings//8080", "", "", 422, ""},
		{"DELETE", "/v1/mappings/tcp/", "", "", 422, ""},
		{"DELETE", "/v1/mappings/tcp/1-65535", "", "", 404, "tcp 1 is not published"},
	}
	fake := newFake()
	h := newHandler(Options{Engine: fake, Decode: decodeFake}, defaultLimits())
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			before := fake.changed()
			var body io.Reader
			if tt.body != "" {
				body = strings.NewReader(tt.body)
			}
			r := httptest.NewRequestWithContext(t.Context(), tt.method, "/", body)
			path, query, _ := strings.Cut(tt.path, "?")
			u, err := url.Parse("http://nftnat" + path)
			require.NoError(t, err)
			u.RawQuery = query
			r.URL = u
			if tt.contentType != "" {
				r.Header.Set("Content-Type", tt.contentType)
			}
			w := ask(h, r)
			require.Equal(t, tt.want, w.Code, w.Body)
			if tt.want < 400 {
				require.Equal(t, "application/json", w.Header().Get("Content-Type"))
				return
			}
			require.Equal(t, before, fake.changed())
			require.Contains(t, problemIn(t, w).Detail, tt.detail)
			require.Equal(t, tt.want == 405, w.Header().Get("Allow") != "")
		})
	}
}

// ranges asks for almost all ports of a number of addresses, each as another one of the backend.
func ranges(n int) string {
	var items []string
	for i := range n {
		items = append(items, fmt.Sprintf(`{"proto":"tcp","host":"127.0.0.%d","port":1,"backend":"10.0.0.1:2","count":65534}`, i+1))
	}
	return "[" + strings.Join(items, ",") + "]"
}

func decodeFake(r io.Reader) (nat.State, error) {
	text, err := io.ReadAll(r)
	switch string(text) {
	case "good":
		return nat.State{}, err
	case "very much":
		return nat.State{Mappings: slices.Repeat([]nat.Mapping{{Backend: netip.AddrPortFrom(netip.Addr{}, 1), More: 65534}}, 5)}, nil
	case "many networks":
		return nat.State{Networks: make([]nat.Network, maxNetworks+1)}, nil
	case "many endpoints":
		return nat.State{Endpoints: make([]nat.EndpointSpec, maxEndpoints+1)}, nil
	case "a network":
		return nat.State{Networks: make([]nat.Network, 1)}, nil
	case "invalid":
		return nat.State{}, &nat.InvalidError{What: "file", Input: "x", Reason: "it is wrong"}
	}
	return nat.State{}, errors.New(string(text))
}

// problemIn reads a problem document strictly.
func problemIn(t *testing.T, w *httptest.ResponseRecorder) Problem {
	t.Helper()
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	var p Problem
	dec := json.NewDecoder(w.Body)
	dec.DisallowUnknownFields()
	require.NoError(t, dec.Decode(&p))
	require.Equal(t, w.Code, p.Status)
	require.NotEmpty(t, p.Detail)
	require.NotContains(t, p.Detail, "\n")
	require.NotEmpty(t, p.Code)
	return p
}

func TestCompressedBody(t *testing.T) {
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/mappings", strings.NewReader("[]"))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Content-Encoding", "gzip")
	w := ask(newHandler(Options{Engine: newFake()}, defaultLimits()), r)
	require.Equal(t, 415, w.Code)
	require.Contains(t, problemIn(t, w).Detail, "in gzip")
}

func TestAllow(t *testing.T) {
	h := newHandler(Options{Engine: newFake()}, defaultLimits())
	for path, want := range map[string]string{
		"/v1/mappings":          "GET, HEAD, POST, PUT, PATCH, DELETE",
		"/v1/mappings/tcp/8080": "DELETE",
		"/v1/events":            "GET, HEAD",
		"/v1/state":             "GET, HEAD, PUT",
		"/v1/endpoints":         "GET, HEAD, POST",
		"/v1/networks/inside":   "GET, HEAD, DELETE",
	} {
		w := ask(h, httptest.NewRequestWithContext(t.Context(), "TRACE", path, nil))
		require.Equal(t, 405, w.Code)
		require.Equal(t, want, w.Header().Get("Allow"))
	}
}

// The whole of a conversation: the engine gets what the body says.
func TestPublishDocuments(t *testing.T) {
	fake := newFake()
	h := newHandler(Options{Engine: fake}, defaultLimits())
	post := func(body string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/mappings", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		return ask(h, r)
	}
	w := post(`[{"proto":"tcp","port":0,"backend":"172.17.0.2:80","count":2},
		{"proto":"udp","host":"::1","port":53,"backend":"[fd00::2]:53","name":"dns","proxy":true,"expires":"2999-01-01T01:00:00+01:00"}]`)
	require.Equal(t, 201, w.Code)
	const want = `[{"proto":"tcp","host":"","port":49153,"backend":"172.17.0.2:80","name":"","proxy":true},` +
		`{"proto":"tcp","host":"","port":49154,"backend":"172.17.0.2:81","name":"","proxy":true},` +
		`{"proto":"udp","host":"::1","port":53,"backend":"[fd00::2]:53","name":"dns","proxy":true,"expires":"2999-01-01T00:00:00Z"}]` + "\n"
	require.JSONEq(t, want, w.Body.String())

	w = ask(h, httptest.NewRequestWithContext(t.Context(), "GET", "/v1/mappings", nil))
	require.JSONEq(t, want, w.Body.String(), "what was published is what is told")

	// All or nothing: the first would do.
	w = post(`[{"proto":"tcp","port":1,"backend":"172.17.0.2:80"},{"proto":"tcp","port":49154,"backend":"172.17.0.2:80"}]`)
	require.Equal(t, 409, w.Code)
	require.Equal(t, uint16(49154), problemIn(t, w).Have.Port)
	require.Len(t, fake.list(), 3)

	// What GET tells, POST takes.
	told := ask(h, httptest.NewRequestWithContext(t.Context(), "GET", "/v1/mappings", nil)).Body.String()
	for _, m := range fake.list() {
		_, err := fake.unpublish(m)
		require.NoError(t, err)
	}
	w = post(told)
	require.Equal(t, 201, w.Code)
	require.Equal(t, told, w.Body.String())

	// An empty array is no mistake.
	require.Equal(t, "[]\n", post("[]").Body.String())
}

// Whatever comes as a body is taken or refused; nothing is done by halves.
func FuzzPublishBody(f *testing.F) {
	for _, s := range malformedBodies() {
		f.Add([]byte(s.body))
	}
	f.Add([]byte(`[{"proto":"tcp","port":0,"backend":"172.17.0.2:80","count":2,"ttl":"1h"}]`))
	f.Add([]byte(`[{"proto":"udp","host":"::1","port":53,"backend":"[fd00::2]:53","expires":"2999-01-01T01:00:00+01:00"}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, method := range []string{"POST", "PUT"} {
			fake := newFake(nat.Mapping{})
			h := newHandler(Options{Engine: fake}, defaultLimits())
			r := httptest.NewRequestWithContext(t.Context(), method, "/v1/mappings", strings.NewReader(string(body)))
			r.Header.Set("Content-Type", "application/json")
			w := ask(h, r)
			require.Less(t, w.Code, 500)
			if w.Code >= 400 {
				problemIn(t, w)
				require.Zero(t, fake.changed())
				continue
			}
			require.Equal(t, 1, fake.changed())
			ms, err := decodeRequests(body, timeZero())
			require.NoError(t, err)
			for i := range ms {
				require.NoError(t, ms[i].Validate())
			}
		}
	})
}

// So is whatever comes as a path.
func FuzzUnpublishPath(f *testing.F) {
	for _, s := range []string{"tcp/8080", "udp/%5B::1%5D:53", "tcp/1-65535?kill=true", "tcp/%", "..//", "tcp/%ff", "*", "tcp/0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("DELETE /v1/mappings/" + path + " HTTP/1.1\r\nHost: x\r\n\r\n")))
		if err != nil {
			return // net/http refuses it
		}
		have := nat.Mapping{Proto: nat.TCP}
		m, err := nat.ParseMapping("tcp", "8080", "172.17.0.2:80")
		require.NoError(t, err)
		fake := newFake(m)
		w := ask(newHandler(Options{Engine: fake}, defaultLimits()), r)
		require.Less(t, w.Code, 500)
		if w.Code >= 400 {
			problemIn(t, w)
			require.Equal(t, []nat.Mapping{m}, fake.list())
			return
		}
		have.Frontend = m.Frontend
		require.Empty(t, slices.DeleteFunc(fake.list(), func(m nat.Mapping) bool { return keyOf(m) != have }))
	})
}
