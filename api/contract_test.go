// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/nat"
)

// The description has every route that the handler has, and no other.
func TestContractRoutes(t *testing.T) {
	var described, registered []string
	ids := map[any]bool{}
	for _, op := range readDescription(t).operations() {
		described = append(described, op.method+" "+op.path)
		require.NotEmpty(t, op.def["operationId"])
		require.False(t, ids[op.def["operationId"]], "%v twice", op.def["operationId"])
		ids[op.def["operationId"]] = true
		require.NotNil(t, at(op.def, "responses", "default"))
	}
	for _, r := range newHandler(Options{Engine: newFake()}, defaultLimits()).routes {
		registered = append(registered, r.method+" "+r.path)
	}
	require.ElementsMatch(t, registered, described)
}

// Words that stand in the description and in the code are the same.
func TestContractWords(t *testing.T) {
	d := readDescription(t)
	var codes []any
	for _, code := range Codes() {
		codes = append(codes, string(code))
	}
	require.ElementsMatch(t, codes, at(d.root, "components", "schemas", "Problem", "properties", "code", "enum"))
	require.ElementsMatch(t, []any{
		string(EventPublished), string(EventUnpublished), string(EventExpired), string(EventRepaired), string(EventLost), string(EventHost),
	}, at(d.root, "components", "schemas", "Event", "properties", "type", "enum"))
	require.ElementsMatch(t, []any{
		report.Passes.String(), report.Stopped.String(), report.Uncertain.String(), report.NotPublished.String(),
	}, at(d.root, "components", "schemas", "Explanation", "properties", "verdict", "enum"))
	require.ElementsMatch(t, []any{string(ForwardingOn), string(ForwardingOff), string(ForwardingPartly)},
		at(d.root, "components", "schemas", "ForwardingState", "enum"))

	for schema, document := range map[string]any{
		"Mapping": Mapping{}, "Request": request{}, "Change": Change{}, "Event": Event{}, "Problem": Problem{}, "Taken": Taken{}, "Held": Held{},
		"Daemon": Daemon{}, "Status": Status{}, "Progress": Progress{}, "FamilyCounts": FamilyCounts{}, "Network": Network{}, "NetworkRequest": networkRequest{},
		"Endpoint": Endpoint{}, "EndpointSpec": attachRequest{}, "State": state{}, "StateRequest": state{},
		"Explanation": Explanation{}, "Cause": Cause{}, "Step": Step{}, "NearMapping": NearMapping{}, "Connections": Connections{},
		"Inspection": Inspection{}, "NetworkSettings": NetworkSettings{}, "PortMapping": PortMapping{},
	} {
		properties := d.properties(t, at(d.root, "components", "schemas", schema))
		require.ElementsMatch(t, fieldNames(document), slices.Collect(maps.Keys(properties)), schema)
	}
	l := defaultLimits()
	for operation, size := range map[string]int64{
		"post /v1/mappings": l.body, "put /v1/mappings": l.apply, "patch /v1/mappings": l.apply, "put /v1/state": l.apply, "post /v1/endpoints": l.body,
		"post /v1/networks": l.body,
	} {
		method, path, _ := strings.Cut(operation, " ")
		text := at(d.root, "paths", path, method, "requestBody", "description")
		require.Contains(t, text, fmt.Sprintf("%d MiB", size>>20))
		if path != "/v1/networks" {
			require.Contains(t, text, fmt.Sprintf("%d ports", maxPorts))
		}
		if path == "/v1/state" {
			require.Contains(t, text, fmt.Sprintf("%d networks and %d endpoints", maxNetworks, maxEndpoints))
		}
	}
	require.Contains(t, at(d.root, "paths", "/v1/events", "get", "description"), fmt.Sprintf("%d streams", l.streams))
	require.Contains(t, at(d.root, "paths", "/v1/explain", "get", "description"), fmt.Sprintf("At most %d at a time", l.searches))
	require.Contains(t, at(d.root, "paths", "/v1/connections", "get", "description"), fmt.Sprintf("At most %d at a time", l.searches))
	info := at(d.root, "info", "description")
	require.Contains(t, info, fmt.Sprintf("at most %d connections", l.conns))
	require.Contains(t, info, fmt.Sprintf("%.0f s without a request", l.idleTime.Seconds()))
	require.Contains(t, info, fmt.Sprintf("%d KiB", l.header>>10))
	require.Contains(t, info, fmt.Sprintf("header has %.0f s to arrive, a body %.0f s", l.headerTime.Seconds(), l.bodyTime.Seconds()))
}

// Every example is as its schema says, and examples of requests are accepted.
func TestContractExamples(t *testing.T) {
	d := readDescription(t)
	seen := 0
	each := func(content any, f func(mediaType, text string)) {
		for mediaType, media := range object(content) {
			for _, example := range object(at(media, "examples")) {
				value := at(example, "value")
				text, isText := value.(string)
				if !isText {
					b, err := json.Marshal(value)
					require.NoError(t, err)
					text = string(b)
				}
				seen++
				f(mediaType, text)
			}
		}
	}
	for _, op := range d.operations() {
		target := concrete(op.path)
		for status, response := range object(op.def["responses"]) {
			each(d.resolve(t, response)["content"], func(mediaType, text string) {
				code, err := strconv.Atoi(status)
				require.NoError(t, err)
				header := http.Header{"Content-Type": {mediaType}, "Retry-After": {retryAfter}}
				require.Empty(t, d.faultsOf(httpRequest(t, op.method, target, "", ""), code, header, text), text)
				if mediaType == typeProblem {
					var problem Problem
					require.NoError(t, json.Unmarshal([]byte(text), &problem))
					require.Equal(t, code, problem.Status)
					require.Equal(t, http.StatusText(problem.Status), problem.Title)
				}
			})
		}
		each(at(op.def, "requestBody", "content"), func(mediaType, body string) {
			require.Empty(t, d.faultsOf(httpRequest(t, op.method, target, mediaType, body), 0, nil, ""), body)
			fake := newFake()
			_, err := fake.CreateNetwork(t.Context(), inside(t))
			require.NoError(t, err)
			s := start(t, Options{Engine: fake, Decode: decodeNothing}, defaultLimits())
			resp, text := s.do(t, op.method, op.path, mediaType, body)
			require.Less(t, resp.StatusCode, 300, text)
			require.NoError(t, s.stop())
		})
	}
	require.Greater(t, seen, 30)
}

// concrete is a path of the description with something in place of what is in braces.
func concrete(path string) string {
	return strings.NewReplacer("{proto}", "tcp", "{frontend}", "8080", "{name}", "dns").Replace(path)
}

func decodeNothing(io.Reader) (nat.State, error) { return nat.State{}, nil }

// inside is a network.
func inside(t *testing.T) nat.Network {
	t.Helper()
	n, err := nat.ParseNetwork("inside", "172.30.0.0/24", "")
	require.NoError(t, err)
	return n
}

// exchange is a request and the status it gets.
type exchange struct {
	method, path string
	url          string // absent: the path
	contentType  string // absent: JSON, if there is a body
	accept       string // absent: nothing is said
	body         string
	engine       error // what the engine says; nil: what it thinks
	again        bool  // what is asked for is there already
	opts         func(*Options)
	want         int
}

func exchanges() []exchange {
	const (
		mappings = "/v1/mappings"
		mapping  = "/v1/mappings/{proto}/{frontend}"

		endpoints = "/v1/endpoints"
		endpoint  = "/v1/endpoints/{name}"
		spec      = `{"name":"web","network":"inside","ports":["8081:80","53/udp"]}`

		networks = "/v1/networks"
		aNetwork = "/v1/networks/{name}"
		network  = `{"name":"outside","prefix":"10.0.0.0/24","guard":false}`

		whole   = "/v1/state"
		explain = "/v1/explain"
		doctor  = "/v1/doctor"

		connections = "/v1/connections"
		file        = `{"networks":[` + network + `],"endpoints":[{"name":"web","network":"outside","address":"10.0.0.2"}],"mappings":[]}`
	)
	valid := `[{"proto":"tcp","port":81,"backend":"172.17.0.2:80","name":"x","ttl":"1h"}]`
	there := `[{"proto":"tcp","port":8080,"backend":"172.17.0.2:80"}]`
	broken := errors.New("it broke")
	xs := []exchange{
		{method: "GET", path: mappings, want: 200},
		{method: "GET", path: mappings, url: mappings + "?x", want: 400},
		{method: "GET", path: mappings, engine: broken, want: 500},
		{method: "GET", path: mappings, engine: nat.ErrClosed, want: 503},
		{method: "POST", path: mappings, body: valid, want: 201},
		{method: "POST", path: mappings, body: "[]", want: 201},
		{method: "POST", path: mappings, body: there, again: true, want: 200},
		{method: "POST", path: mappings, url: mappings + "?replace=true&kill=true", body: strings.ReplaceAll(valid, "81", "8080"), want: 201},
		{method: "POST", path: mappings, url: mappings + "?replace=true", body: strings.ReplaceAll(valid, "81", "8080"), want: 201},
		{method: "POST", path: mappings, body: strings.ReplaceAll(valid, "81", "8080"), want: 409},
		{method: "POST", path: mappings, body: valid, engine: nat.ErrExhausted, want: 409},
		{method: "PUT", path: mappings, body: valid, want: 200},
		{method: "PUT", path: mappings, body: strings.ReplaceAll(valid, "81", "8080"), want: 200},
		{method: "PUT", path: mappings, url: mappings + "?dry-run=true", body: valid, want: 200},
		{method: "PUT", path: mappings, contentType: "application/yaml", body: "mappings: []", want: 200},
		{method: "PUT", path: mappings, body: valid, engine: nat.ErrConflict, want: 409},
		{method: "PATCH", path: mappings, body: `{"publish":` + valid + "}", want: 200},
		{method: "PATCH", path: mappings, body: `{"publish":` + valid + `,"remove":` + there + "}", want: 200},
		{method: "PATCH", path: mappings, body: `{"drop":[]}`, want: 400},
		{method: "PATCH", path: mappings, body: `{"publish":` + valid + "}", engine: nat.ErrConflict, want: 409},
		{method: "PATCH", path: mappings, body: `{"remove":` + there + "}", engine: nat.ErrNotFound, want: 404},
		{method: "DELETE", path: mapping, url: mappings + "/tcp/8080", want: 200},
		{method: "POST", path: mappings, url: mappings + "?replace=true&if-name=dns", body: strings.ReplaceAll(valid, "81", "8080"), want: 409},
		{method: "POST", path: mappings, url: mappings + "?replace=true&if-name=dns", body: valid, want: 201},
		{method: "DELETE", path: mapping, url: mappings + "/udp/53?name=dns", want: 200},
		{method: "POST", path: mappings, url: mappings + "?replace=true&if-name=", body: valid, want: 422},
		{method: "POST", path: mappings, url: mappings + "?if-name=dns", body: valid, want: 400},
		{method: "DELETE", path: mapping, url: mappings + "/tcp/8080?name=dns", want: 404},
		{method: "DELETE", path: mapping, url: mappings + "/tcp/8080?name=", want: 422},
		{method: "DELETE", path: mapping, url: mappings + "/tcp/8080?backend=1.2.3.4:5", want: 404},
		{method: "DELETE", path: mapping, url: mappings + "/tcp/8080?backend=172.17.0.2:80", want: 200},
		{method: "DELETE", path: mapping, url: mappings + "/tcp/8080?backend=x", want: 422},
		{method: "DELETE", path: mapping, url: mappings + "/tcp/8080?backend=1.2.3.4&backend=1.2.3.4", want: 400},
		{method: "DELETE", path: mappings, url: mappings + "?name=dns", want: 200},
		{method: "DELETE", path: mappings, url: mappings + "?name=dns&kill=true", want: 200},
		{method: "DELETE", path: mappings, want: 400},
		{method: "DELETE", path: mappings, url: mappings + "?name=dns&name=dns", want: 400},
		{method: "DELETE", path: mappings, url: mappings + "?name=nobody", want: 404},
		{method: "DELETE", path: mappings, url: mappings + "?name=", want: 422},
		{method: "DELETE", path: mappings, url: mappings + "?name=a%0Ab", want: 422},
		{method: "DELETE", path: mappings, url: mappings + "?name=dns", engine: broken, want: 500},
		{method: "DELETE", path: mappings, url: mappings + "?name=dns", engine: nat.ErrClosed, want: 503},
		{method: "DELETE", path: mapping, url: mappings + "/tcp/8080?kill=true", want: 200},
		{method: "DELETE", path: mapping, url: mappings + "/tcp/8080?kill=maybe", want: 400},
		{method: "DELETE", path: mapping, url: mappings + "/tcp/%5B::1%5D:8080", want: 404},
		{method: "DELETE", path: mapping, url: mappings + "/tcp/x", want: 422},
		{method: "DELETE", path: mapping, url: mappings + "/tcp/8080", engine: broken, want: 500},
		{method: "DELETE", path: mapping, url: mappings + "/tcp/8080", engine: nat.ErrClosed, want: 503},
		{method: "GET", path: endpoints, want: 200},
		{method: "GET", path: endpoints, url: endpoints + "?x", want: 400},
		{method: "GET", path: endpoints, engine: broken, want: 500},
		{method: "GET", path: endpoints, engine: nat.ErrClosed, want: 503},
		{method: "POST", path: endpoints, body: spec, want: 201},
		{method: "POST", path: endpoints, body: strings.ReplaceAll(spec, "web", "dns"), again: true, want: 200},
		{method: "POST", path: endpoints, body: strings.ReplaceAll(spec, "web", "dns"), want: 409},
		{method: "POST", path: endpoints, body: strings.ReplaceAll(spec, "inside", "outside"), want: 404},
		{method: "GET", path: endpoint, url: endpoints + "/dns", want: 200},
		{method: "GET", path: endpoint, url: endpoints + "/dns?x", want: 400},
		{method: "GET", path: endpoint, url: endpoints + "/web", want: 404},
		{method: "GET", path: endpoint, url: endpoints + "/w%20b", want: 422},
		{method: "GET", path: endpoint, url: endpoints + "/dns", engine: broken, want: 500},
		{method: "GET", path: endpoint, url: endpoints + "/dns", engine: nat.ErrClosed, want: 503},
		{method: "DELETE", path: endpoint, url: endpoints + "/dns", want: 200},
		{method: "DELETE", path: endpoint, url: endpoints + "/dns?x", want: 400},
		{method: "DELETE", path: endpoint, url: endpoints + "/web", want: 404},
		{method: "DELETE", path: endpoint, url: endpoints + "/w%20b", want: 422},
		{method: "DELETE", path: endpoint, url: endpoints + "/dns", engine: broken, want: 500},
		{method: "DELETE", path: endpoint, url: endpoints + "/dns", engine: nat.ErrClosed, want: 503},
		{method: "GET", path: networks, want: 200},
		{method: "GET", path: networks, url: networks + "?x", want: 400},
		{method: "GET", path: networks, engine: broken, want: 500},
		{method: "GET", path: networks, engine: nat.ErrClosed, want: 503},
		{method: "POST", path: networks, body: network, want: 201},
		{method: "POST", path: networks, body: `{"name":"inside","prefix":"172.30.0.0/24"}`, again: true, want: 200},
		{method: "POST", path: networks, body: strings.ReplaceAll(network, "outside", "inside"), want: 409},
		{method: "GET", path: aNetwork, url: networks + "/inside", want: 200},
		{method: "GET", path: aNetwork, url: networks + "/inside?x", want: 400},
		{method: "GET", path: aNetwork, url: networks + "/outside", want: 404},
		{method: "GET", path: aNetwork, url: networks + "/a%20b", want: 422},
		{method: "GET", path: aNetwork, url: networks + "/inside", engine: broken, want: 500},
		{method: "GET", path: aNetwork, url: networks + "/inside", engine: nat.ErrClosed, want: 503},
		{method: "DELETE", path: aNetwork, url: networks + "/empty", want: 204},
		{method: "DELETE", path: aNetwork, url: networks + "/inside", want: 409},
		{method: "DELETE", path: aNetwork, url: networks + "/empty?x", want: 400},
		{method: "DELETE", path: aNetwork, url: networks + "/outside", want: 404},
		{method: "DELETE", path: aNetwork, url: networks + "/a%20b", want: 422},
		{method: "DELETE", path: aNetwork, url: networks + "/empty", engine: broken, want: 500},
		{method: "DELETE", path: aNetwork, url: networks + "/empty", engine: nat.ErrClosed, want: 503},
		{method: "GET", path: whole, want: 200},
		{method: "GET", path: whole, accept: "application/yaml", want: 200},
		{method: "GET", path: whole, url: whole + "?x", want: 400},
		{method: "GET", path: whole, engine: broken, want: 500},
		{method: "GET", path: whole, engine: nat.ErrClosed, want: 503},
		{method: "PUT", path: whole, body: file, want: 200},
		{method: "PUT", path: whole, url: whole + "?dry-run=true", body: file, want: 200},
		{method: "PUT", path: whole, contentType: "application/yaml", body: "mappings: []", want: 200},
		{method: "PUT", path: whole, body: file, engine: nat.ErrConflict, want: 409},
		{method: "GET", path: connections, want: 200},
		{method: "GET", path: connections, url: connections + "?x", want: 400},
		{method: "GET", path: connections, engine: broken, want: 500},
		{method: "GET", path: connections, engine: nat.ErrClosed, want: 503},
		{method: "GET", path: doctor, want: 200},
		{method: "GET", path: doctor, url: doctor + "?x=1", want: 400},
		{method: "GET", path: doctor, opts: func(o *Options) { o.Doctor = nil }, want: 404},
		{method: "GET", path: doctor, opts: func(o *Options) {
			o.Doctor = func(context.Context) (report.Diagnosis, error) { return report.Diagnosis{}, broken }
		}, want: 500},
		{method: "GET", path: doctor, opts: func(o *Options) {
			o.Doctor = func(context.Context) (report.Diagnosis, error) { return report.Diagnosis{}, nat.ErrClosed }
		}, want: 503},
		{method: "GET", path: explain, url: explain + "?proto=tcp&frontend=8080&from=192.0.2.2", want: 200},
		{method: "GET", path: explain, url: explain + "?proto=tcp&frontend=8080", want: 200},
		{method: "GET", path: explain, want: 400},
		{method: "GET", path: explain, url: explain + "?proto=tcp", want: 400},
		{method: "GET", path: explain, url: explain + "?frontend=80", want: 400},
		{method: "GET", path: explain, url: explain + "?proto=tcp&frontend=80&x=1", want: 400},
		{method: "GET", path: explain, url: explain + "?proto=tcp&proto=udp&frontend=80", want: 400},
		{method: "GET", path: explain, url: explain + "?proto=udp&frontend=80", want: 404},
		{method: "GET", path: explain, url: explain + "?proto=tcp&frontend=80", opts: func(o *Options) { o.Explain = nil }, want: 404},
		{method: "GET", path: explain, url: explain + "?proto=sctp&frontend=80", want: 422},
		{method: "GET", path: explain, url: explain + "?proto=tcp&frontend=80-90", want: 422},
		{method: "GET", path: explain, url: explain + "?proto=tcp&frontend=", want: 422},
		{method: "GET", path: explain, url: explain + "?proto=tcp&frontend=80&from=", want: 422},
		{method: "GET", path: explain, url: explain + "?proto=tcp&frontend=80&from=10.0.0.0/8", want: 422},
		{method: "GET", path: explain, url: explain + "?proto=tcp&frontend=80", opts: func(o *Options) {
			o.Explain = func(context.Context, report.Query) (report.Report, error) { return report.Report{}, broken }
		}, want: 500},
		{method: "GET", path: explain, url: explain + "?proto=tcp&frontend=80", opts: func(o *Options) {
			o.Explain = func(context.Context, report.Query) (report.Report, error) { return report.Report{}, nat.ErrClosed }
		}, want: 503},
		{method: "GET", path: "/v1/daemon", want: 200},
		{method: "GET", path: "/v1/daemon", url: "/v1/daemon?x", want: 400},
		{method: "GET", path: "/v1/daemon", opts: func(o *Options) { o.Daemon = nil }, want: 404},
		{method: "GET", path: "/v1/status", want: 200},
		{method: "GET", path: "/v1/status", url: "/v1/status?x", want: 400},
		{method: "GET", path: "/v1/status", opts: func(o *Options) {
			o.Status = func(context.Context) (Status, error) { return Status{}, nat.ErrClosed }
		}, want: 503},
		{method: "GET", path: "/v1/status", opts: func(o *Options) { o.Status = nil }, want: 404},
		{method: "GET", path: "/v1/status", opts: func(o *Options) {
			o.Status = func(context.Context) (Status, error) { return Status{}, broken }
		}, want: 500},
		{method: "GET", path: "/v1/progress", want: 200},
		{method: "GET", path: "/v1/progress", url: "/v1/progress?x", want: 400},
		{method: "GET", path: "/v1/progress", opts: func(o *Options) { o.Progress = nil }, want: 404},
		{method: "GET", path: "/v1/events", want: 200},
		{method: "GET", path: "/v1/events", url: "/v1/events?x", want: 400},
		{method: "GET", path: "/v1/events", opts: func(o *Options) { o.Events = nil }, want: 404},
		{method: "POST", path: "/v1/sessions", url: "/v1/sessions?x", want: 400},
		{method: "POST", path: "/v1/sessions", body: "[]", want: 400},
		{method: "POST", path: "/v1/sessions", opts: func(o *Options) { o.Sessions = nil }, want: 404},
		{method: "POST", path: "/v1/sessions", want: 426},
		{method: "POST", path: "/v1/handover", url: "/v1/handover?x", want: 400},
		{method: "POST", path: "/v1/handover", body: "{}", want: 400},
		{method: "POST", path: "/v1/handover", opts: func(o *Options) { o.Handovers = nil }, want: 404},
		{method: "POST", path: "/v1/handover", want: 426},
		{method: "GET", path: "/healthz", want: 200},
		{method: "GET", path: "/healthz", url: "/healthz?x", want: 400},
		{method: "GET", path: "/healthz", opts: func(o *Options) { o.Health = nil }, want: 404},
		{method: "GET", path: "/healthz", opts: func(o *Options) {
			o.Health = func(context.Context) error { return broken }
		}, want: 503},
		{method: "GET", path: "/metrics", want: 200},
		{method: "GET", path: "/metrics", body: "x", want: 400},
		{method: "GET", path: "/metrics", opts: func(o *Options) { o.Metrics = nil }, want: 404},
	}
	for _, x := range []struct{ method, path, valid, invalid string }{
		{"POST", mappings, valid, "[{}]"},
		{"PUT", mappings, valid, "[{}]"},
		{"PATCH", mappings, `{"publish":` + valid + "}", `{"remove":[{}]}`},
		{"POST", endpoints, spec, "{}"},
		{"POST", networks, network, "{}"},
		{"PUT", whole, file, `{"networks":[{}]}`},
	} {
		xs = append(xs,
			exchange{method: x.method, path: x.path, body: "{", want: 400},
			exchange{method: x.method, path: x.path, body: x.valid, engine: syscall.EPERM, want: 403},
			exchange{method: x.method, path: x.path, body: strings.Repeat(" ", 17<<20), want: 413},
			exchange{method: x.method, path: x.path, contentType: "text/plain", body: x.valid, want: 415},
			exchange{method: x.method, path: x.path, body: x.invalid, want: 422},
			exchange{method: x.method, path: x.path, body: x.valid, engine: broken, want: 500},
			exchange{method: x.method, path: x.path, body: x.valid, engine: nat.ErrClosed, want: 503},
		)
	}
	return xs
}

// contract is what of the description has been seen to be so.
type contract struct {
	description
	statuses   map[string]bool // "GET /v1/status 200"
	parameters map[string]bool // "POST /v1/mappings replace"
}

// seen checks an answer against the description and notes it.
func (c *contract) seen(t *testing.T, method, path string, status int, header http.Header, body string) {
	t.Helper()
	responses := object(at(c.root, "paths", path, strings.ToLower(method), "responses"))
	response, ok := responses[fmt.Sprint(status)]
	require.True(t, ok, "%s %s may answer %d, which is not described", method, path, status)
	c.statuses[fmt.Sprintf("%s %s %d", method, path, status)] = true
	if status == http.StatusNoContent {
		require.Empty(t, body)
		require.Nil(t, at(c.resolve(t, response), "content"))
		return
	}
	documents := []string{body}
	if header.Get("Content-Type") == typeEvents {
		documents = strings.Split(strings.TrimSuffix(body, "\n"), "\n")
	}
	for _, text := range documents {
		require.Empty(t, c.faultsOf(httpRequest(t, method, concrete(path), "", ""), status, header, text), text)
		if status >= 400 {
			var p Problem
			require.NoError(t, json.Unmarshal([]byte(text), &p))
			require.Equal(t, status, p.Status)
		}
	}
}

func TestContractExchanges(t *testing.T) {
	c := &contract{readDescription(t), map[string]bool{}, map[string]bool{}}
	for _, x := range exchanges() {
		t.Run(fmt.Sprint(x.method, " ", x.path, " ", x.want), func(t *testing.T) { c.exchange(t, x) })
	}
	t.Run("too slow", c.tooSlow)
	t.Run("too many", c.tooMany)
	t.Run("strangers", c.strangers)
	t.Run("handed over", c.handedOver)
	t.Run("session", c.sessionOpened)

	for _, op := range c.operations() {
		for status := range object(op.def["responses"]) {
			if status != "default" {
				require.True(t, c.statuses[op.method+" "+op.path+" "+status], "%s %s never answered %s", op.method, op.path, status)
			}
		}
		for _, p := range list(op.def["parameters"]) {
			if at(p, "in") == "query" {
				key := fmt.Sprint(op.method, " ", op.path, " ", at(p, "name"))
				require.True(t, c.parameters[key], key)
				delete(c.parameters, key)
			}
		}
	}
	require.Empty(t, c.parameters, "taken and not described")
}

// wired is a server's options with everything that a daemon hands in.
func wired(t *testing.T) (Options, *fakeEngine) {
	t.Helper()
	fake := newFake(parse(t, "8080->172.17.0.2:80"))
	fake.networks["inside"] = complete(inside(t))
	fake.networks["empty"] = complete(nat.Network{Name: "empty", Prefix: netip.MustParsePrefix("10.9.0.0/24"), NoGuard: true})
	dns, err := nat.ParseEndpointSpec("dns", "inside", "172.30.0.9", "53:53/udp", "192.0.2.1:5353:53/udp")
	require.NoError(t, err)
	_, err = fake.Attach(t.Context(), dns)
	require.NoError(t, err)
	fake.changes = 0
	return Options{
		Engine: fake, Events: fake.Events, Decode: decodeNothing,
		Daemon: func() Daemon {
			return Daemon{PID: os.Getpid(), NetNS: 4026531840, Version: "devel", Table: "nftnat", Created: 21}
		},
		Progress: func() Progress { return Progress{Step: "bind", Done: 1, Total: 2} },
		Encode: func(w io.Writer, _ nat.State) error {
			_, err := io.WriteString(w, "mappings: []\n")
			return err
		},
		Status: func(context.Context) (Status, error) {
			return Status{
				PID: os.Getpid(), NetNS: 4026531840, Version: "devel", Started: time.Now(), Table: TableStatus{Name: "nftnat", Owned: true},
				Mappings: MappingCounts{TCP: FamilyCounts{IPv4: len(fake.list())}}, Conntrack: &Conntrack{Count: 1, Max: 2},
				Forwarding:  Forwarding{ForwardingOn, ForwardingPartly},
				Confinement: &Confinement{Capabilities: []string{"CAP_NET_ADMIN"}, NoNewPrivileges: true, Landlock: 2, SystemCalls: 85, Missing: []string{"none"}},
			}, nil
		},
		Explain:   explainFake,
		Doctor:    doctorFake,
		Handovers: make(chan *net.UnixConn, 1),
		Sessions:  func(context.Context, Session) ([]nat.Mapping, error) { return nil, errors.ErrUnsupported },
		Health:    func(context.Context) error { return nil },
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; version=0.0.4")
			_, _ = io.WriteString(w, "up 1\n")
		}),
	}, fake
}

func (c *contract) exchange(t *testing.T, x exchange) {
	t.Helper()
	opts, fake := wired(t)
	if x.opts != nil {
		x.opts(&opts)
	}
	fake.err, fake.repeats = x.engine, x.again
	fake.notes = []string{"turned on 100 % of it: name=é"}
	s := start(t, opts, defaultLimits())
	target := x.url
	if target == "" {
		target = x.path
	}
	if x.contentType == "" && x.body != "" {
		x.contentType = typeJSON
	}
	var resp *http.Response
	var body string
	if x.path == "/v1/events" && x.want == 200 {
		var sending sync.WaitGroup
		sending.Go(func() { sendEvents(fake) })
		resp, body = s.doUntil(t, lastMessage, s.cancel, x.method, target, x.accept)
		sending.Wait()
	} else {
		resp, body = s.do(t, x.method, target, x.contentType, x.body, x.accept)
	}
	require.Equal(t, x.want, resp.StatusCode, body)
	c.seen(t, x.method, x.path, resp.StatusCode, resp.Header, body)
	if x.want >= 300 {
		require.Zero(t, fake.changed())
		return
	}
	u, err := url.Parse(target)
	require.NoError(t, err)
	for name := range u.Query() {
		c.parameters[x.method+" "+x.path+" "+name] = true
	}
	require.Empty(t, c.faultsOf(httpRequest(t, x.method, target, x.contentType, x.body), 0, nil, ""))
}

// lastMessage is in the last event of sendEvents.
const lastMessage = "net/ipv4/ip_forward was 0, and is 1 again"

// sendEvents sends events of every type once there is a reader.
func sendEvents(fake *fakeEngine) {
	for !fake.feed.Followed() {
		time.Sleep(time.Millisecond)
	}
	now := time.Now()
	many := make([]nat.Mapping, 40_000)
	for i := range many {
		many[i] = numbered(i)
	}
	for range 3 { // more than are kept
		fake.send(nat.EventPublished, now, many...)
	}
	for _, kind := range []nat.EventKind{nat.EventUnpublished, nat.EventExpired, nat.EventRepaired} {
		fake.send(kind, now, numbered(1))
	}
	fake.send(nat.EventRepaired, now)
	fake.feed.Send(nat.Event{Kind: nat.EventHost, Time: now, Message: lastMessage})
}

func (c *contract) tooSlow(t *testing.T) {
	t.Helper()
	opts, _ := wired(t)
	s := start(t, opts, quick())
	for _, operation := range []string{"POST /v1/mappings", "PUT /v1/mappings", "PATCH /v1/mappings", "POST /v1/endpoints", "POST /v1/networks", "PUT /v1/state"} {
		method, path, _ := strings.Cut(operation, " ")
		resp, body := s.speak(t, operation+" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n[{")
		require.Equal(t, 408, resp.StatusCode)
		c.seen(t, method, path, resp.StatusCode, resp.Header, body)
	}
}

func (c *contract) tooMany(t *testing.T) {
	t.Helper()
	opts, _ := wired(t)
	l := defaultLimits()
	l.streams = 0
	s := start(t, opts, l)
	resp, body := s.do(t, "GET", "/v1/events", "", "")
	require.Equal(t, 503, resp.StatusCode)
	c.seen(t, "GET", "/v1/events", resp.StatusCode, resp.Header, body)
}

func (c *contract) strangers(t *testing.T) {
	t.Helper()
	opts, fake := wired(t)
	h := newHandler(opts, defaultLimits())
	for _, r := range h.routes {
		w := strangerAsks(t, h, r.method, concrete(r.path))
		require.Equal(t, 403, w.Code)
		c.seen(t, r.method, r.path, w.Code, w.Header(), w.Body.String())
	}
	require.Zero(t, fake.changed())
}
