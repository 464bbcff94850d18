// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// Every answer with mappings has a range as one where that is asked for, and else a mapping for
// each port.
func TestRanges(t *testing.T) {
	const rtp = `"port":10000,"last":60000,"backend":"10.0.0.1:10000"`
	h := newHandler(Options{Engine: newFake()}, defaultLimits())
	ask := func(method, target, body string, status int) string {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), method, "http://nftnat"+target, strings.NewReader(body))
		if body != "" {
			r.Header.Set("Content-Type", typeJSON)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, status, w.Code, w.Body)
		return w.Body.String()
	}
	items := func(text string) int { return strings.Count(text, `"proto"`) }

	text := ask("POST", "/v1/mappings?ranges", `[{"proto":"udp",`+rtp+`}]`, http.StatusCreated)
	require.JSONEq(t, `[{"proto":"udp","host":"",`+rtp+`,"name":"","proxy":true}]`, text)
	require.Equal(t, text, ask("GET", "/v1/mappings?ranges=true", "", http.StatusOK))
	require.JSONEq(t, "[]", ask("PUT", "/v1/mappings?ranges", text, http.StatusOK), "an answer is a request")
	for _, target := range []string{"/v1/mappings", "/v1/mappings?ranges=false"} {
		require.Equal(t, 50_001, items(ask("GET", target, "", http.StatusOK)))
	}
	for _, target := range []string{"/v1/mappings?ranges=1", "/v1/mappings?ranges&ranges", "/v1/status?ranges", "/v1/mappings?range"} {
		require.Contains(t, ask("GET", target, "", http.StatusBadRequest), `"invalid"`)
	}
	text = ask("PUT", "/v1/mappings?ranges", `[{"proto":"tcp","port":80,"last":89,"backend":"10.0.0.1"}]`, http.StatusOK)
	require.Equal(t, 2, items(text))
	require.Equal(t, 10, items(ask("PUT", "/v1/mappings", "[]", http.StatusOK)))
	ask("POST", "/v1/mappings?ranges", `[{"proto":"tcp","port":80,"last":89,"backend":"10.0.0.1"},{"proto":"tcp","port":90,"backend":"10.0.0.1"}]`, http.StatusCreated)
	require.Equal(t, 1, items(ask("GET", "/v1/mappings?ranges", "", http.StatusOK)), "consecutive ports are one range")
	require.Equal(t, 1, items(ask("DELETE", "/v1/mappings/tcp/80-90?ranges", "", http.StatusOK)))
}

// An older server does not know the parameter, and has a mapping for each port.
func TestRangesOfOlderServer(t *testing.T) {
	fake := newFake()
	h := newHandler(Options{Engine: fake, Events: fake.Events}, defaultLimits())
	for i := range h.routes {
		h.routes[i].params = strings.TrimSpace(strings.TrimSuffix(h.routes[i].params, "ranges?"))
	}
	path := filepath.Join(directory(t), "s")
	listener, err := Listen(path, -1)
	require.NoError(t, err)
	server := http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	defer func() {
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-done, http.ErrServerClosed)
	}()

	c, ctx := NewClient(path), t.Context()
	m := parse(t, "8000-8009->172.17.0.2:9000-9009")
	m.Name = "ranges"
	got, err := c.Publish(ctx, nat.PublishOptions{Replace: true}, m)
	require.NoError(t, err)
	require.Equal(t, []nat.Mapping{m}, got)
	all, err := c.Mappings(ctx)
	require.NoError(t, err)
	require.Equal(t, slices.Collect(nat.Expand(m)), all)
	events, err := c.RangeEvents(ctx)
	require.NoError(t, err)
	fake.send(nat.EventPublished, time.Now(), m)
	n := 0
	for e, err := range events {
		require.NoError(t, err)
		require.Zero(t, e.Mapping.Last)
		if n++; n == 10 {
			break
		}
	}
	got, err = c.Remove(ctx, nat.Removal{Name: "ranges"})
	require.NoError(t, err)
	require.Equal(t, []nat.Mapping{m}, got)
}

func TestRangeEvents(t *testing.T) {
	feed := newFake()
	s := start(t, Options{Engine: newFake(), Events: feed.Events}, defaultLimits())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := s.RangeEvents(ctx)
	require.NoError(t, err)
	feed.send(nat.EventPublished, time.Now(), parse(t, "10000-60000->172.17.0.2:10000-60000/udp"), parse(t, "80->172.17.0.2:80"))
	var got []Mapping
	for e, err := range events {
		require.NoError(t, err)
		if got = append(got, *e.Mapping); len(got) == 2 {
			cancel()
		}
	}
	require.Equal(t, []Mapping{
		{Proto: "udp", Port: 10000, Last: 60000, Backend: "172.17.0.2:10000", Proxy: true},
		{Proto: "tcp", Port: 80, Backend: "172.17.0.2:80", Proxy: true},
	}, got)
}

// A range whose ports stay the same counts less than its ports, for it is kept as one.
func TestCostOfRanges(t *testing.T) {
	require.Equal(t, rangeCost, cost(1, 1, 65534))
	require.Equal(t, 10, cost(1, 1, 9))
	require.Equal(t, 65000, cost(1, 2, 64999))
	require.NoError(t, withinBounds(nat.State{Mappings: slices.Repeat([]nat.Mapping{{
		Frontend: netip.AddrPortFrom(netip.Addr{}, 1), Backend: netip.AddrPortFrom(netip.Addr{}, 1), More: 65534,
	}}, 1024)}))
}
