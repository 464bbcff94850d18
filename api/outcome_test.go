// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// Each change is told of once, with who asked for it, before the client has its answer;
// what changes nothing is not told of.
func TestOutcomes(t *testing.T) {
	fake := newFake(parse(t, "8080->172.17.0.2:80"))
	var told []Outcome // the requests come one after another
	s := start(t, Options{Engine: fake, Decode: decodeNothing, Changed: func(o Outcome) { told = append(told, o) }}, defaultLimits())
	for _, x := range []struct {
		method, target, body string
		status               int
		want                 Outcome
	}{
		{"POST", "/v1/networks", `{"name":"inside","prefix":"172.30.0.0/24"}`, 201, Outcome{Operation: OpCreateNetwork, Name: "inside", Address: "172.30.0.0/24"}},
		{"POST", "/v1/networks", `{"name":"inside","prefix":"172.30.0.0/24"}`, 409, Outcome{Operation: OpCreateNetwork, Name: "inside", Code: CodeConflict}},
		{"POST", "/v1/endpoints", `{"name":"dns","network":"inside","address":"172.30.0.9","ports":["53:53/udp"]}`, 201,
			Outcome{Operation: OpAttach, Name: "dns", Address: "172.30.0.9", Mappings: []nat.Mapping{named(parse(t, "53->172.30.0.9:53/udp"), "dns")}}},
		{"DELETE", "/v1/endpoints/dns", "", 200,
			Outcome{Operation: OpDetach, Name: "dns", Mappings: []nat.Mapping{named(parse(t, "53->172.30.0.9:53/udp"), "dns")}}},
		{"DELETE", "/v1/networks/inside", "", 204, Outcome{Operation: OpRemoveNetwork, Name: "inside"}},
		{"POST", "/v1/mappings", `[{"proto":"tcp","port":81,"backend":"172.17.0.2:80","name":"web"}]`, 201,
			Outcome{Operation: OpPublish, Mappings: []nat.Mapping{named(parse(t, "81->172.17.0.2:80"), "web")}}},
		{"POST", "/v1/mappings", `[{"proto":"tcp","port":81,"backend":"172.17.0.3:80"}]`, 409, Outcome{Operation: OpPublish, Code: CodeConflict}},
		{"POST", "/v1/mappings?replace=true", `[{"proto":"tcp","port":81,"backend":"172.17.0.3:80"}]`, 201,
			Outcome{Operation: OpReplace, Mappings: []nat.Mapping{parse(t, "81->172.17.0.3:80")}}},
		{"POST", "/v1/mappings", `{`, 400, Outcome{Operation: OpPublish, Code: CodeInvalid}},
		{"POST", "/v1/mappings", `[{}]`, 422, Outcome{Operation: OpPublish, Code: CodeInvalid}},
		{"DELETE", "/v1/mappings/tcp/81", "", 200, Outcome{Operation: OpUnpublish, Mappings: []nat.Mapping{parse(t, "81->172.17.0.3:80")}}},
		{"DELETE", "/v1/mappings/tcp/81", "", 404, Outcome{Operation: OpUnpublish, Code: CodeNotFound}},
		{"PUT", "/v1/mappings?dry-run=true", `[]`, 200, Outcome{}},
		{"PUT", "/v1/mappings", `[]`, 200, Outcome{Operation: OpApply, Changes: []nat.Change{{Old: parse(t, "8080->172.17.0.2:80")}}}},
		{"PUT", "/v1/state", `{"mappings":[]}`, 200, Outcome{Operation: OpApply}},
		{"GET", "/v1/mappings", "", 200, Outcome{}},
		{"GET", "/v1/mappings?x", "", 400, Outcome{}},
	} {
		told = nil
		contentType := ""
		if x.body != "" {
			contentType = typeJSON
		}
		resp, body := s.do(t, x.method, x.target, contentType, x.body)
		require.Equal(t, x.status, resp.StatusCode, body)
		if x.want.Operation == "" {
			require.Empty(t, told, "%s %s", x.method, x.target)
			continue
		}
		require.Len(t, told, 1, "%s %s", x.method, x.target)
		x.want.PID, x.want.UID, x.want.Agent = os.Getpid(), os.Getuid(), "Go-http-client/1.1"
		if x.want.Code != "" {
			require.Error(t, told[0].Err)
		}
		told[0].Err = nil
		if len(told[0].Changes) == 0 {
			told[0].Changes = nil
		}
		require.Equal(t, x.want, told[0], "%s %s", x.method, x.target)
	}
}

func named(m nat.Mapping, name string) nat.Mapping {
	m.Name = name
	return m
}

// A client calls itself what it was told to.
func TestAgent(t *testing.T) {
	var told Outcome
	s := start(t, Options{Engine: newFake(), Decode: decodeNothing, Changed: func(o Outcome) { told = o }}, defaultLimits())
	_, err := NewClient(s.path).As(GatewayAgent).Publish(t.Context(), nat.PublishOptions{}, parse(t, "81->172.17.0.2:80"))
	require.NoError(t, err)
	require.Equal(t, GatewayAgent, told.Agent)
	_, err = NewClient(s.path).Publish(t.Context(), nat.PublishOptions{}, parse(t, "82->172.17.0.2:80"))
	require.NoError(t, err)
	require.Empty(t, told.Agent)
}
