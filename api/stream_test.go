// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// Events come at once, in order, also while others read.
func TestEvents(t *testing.T) {
	feed := newFake()
	s := start(t, Options{Engine: newFake(), Events: feed.Events}, defaultLimits())
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		events, err := s.Events(ctx)
		require.NoError(t, err)
		// What happens once Events has returned is not missed.
		at := time.Date(2026, 5, 4, 3, 2, 1, 5, time.UTC)
		feed.send(nat.EventPublished, at, parse(t, "8080->172.17.0.2:80"))
		feed.send(nat.EventRepaired, at)
		var got []Event
		for e, err := range events {
			require.NoError(t, err)
			if got = append(got, e); len(got) == 2 {
				cancel() // and the rest comes to an end without an error
			}
		}
		require.Equal(t, []Event{
			{Type: EventPublished, Time: at, Mapping: &Mapping{Proto: "tcp", Port: 8080, Backend: "172.17.0.2:80", Proxy: true}},
			{Type: EventRepaired, Time: at},
		}, got)
		cancel()
	}
}

// A reader that stops reading holds nobody up, and is told how much it missed, at the
// place where it is missing.
func TestEventsSlowReader(t *testing.T) {
	const total = 150_000
	feed := newFake()
	s := start(t, Options{Engine: newFake(), Events: feed.Events}, defaultLimits())
	events, err := s.Events(t.Context())
	require.NoError(t, err)
	quick, err := s.Events(t.Context())
	require.NoError(t, err)
	last := make(chan string)
	go func() {
		name := ""
		for e, err := range quick {
			if err != nil {
				break
			}
			if e.Mapping != nil {
				name = e.Mapping.Name
			}
			if name == strconv.Itoa(total-1) {
				break
			}
		}
		last <- name
	}()
	for n := range total {
		feed.send(nat.EventPublished, time.Now(), numbered(n))
	}
	require.Equal(t, strconv.Itoa(total-1), <-last)

	next, losses := 0, 0
	for e, err := range events {
		require.NoError(t, err)
		if e.Type == EventLost {
			require.Nil(t, e.Mapping)
			require.Positive(t, e.Lost)
			next += int(e.Lost)
			losses++
			continue
		}
		require.Equal(t, strconv.Itoa(next), e.Mapping.Name)
		if next++; next == total {
			break
		}
	}
	require.Equal(t, total, next)
	require.Positive(t, losses)
}

// Streams leave room for other requests, and give their places back.
func TestEventsAreBounded(t *testing.T) {
	feed := newFake()
	l := defaultLimits()
	l.streams = 2
	s := start(t, Options{Engine: newFake(), Events: feed.Events}, l)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 2 {
		_, err := s.Events(ctx)
		require.NoError(t, err)
	}
	_, err := s.Events(ctx)
	require.ErrorIs(t, err, ErrBusy)
	var p *Problem
	require.ErrorAs(t, err, &p)
	require.Equal(t, http.StatusServiceUnavailable, p.Status)
	_, err = s.Mappings(t.Context())
	require.NoError(t, err)
	cancel()
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		_, err := s.Events(ctx)
		return err == nil
	}, time.Minute, time.Millisecond)
}

// HEAD tells that there is a stream and does not begin one.
func TestEventsHead(t *testing.T) {
	feed := newFake()
	s := start(t, Options{Engine: newFake(), Events: feed.Events}, defaultLimits())
	resp, body := s.do(t, http.MethodHead, "/v1/events", "", "")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, typeEvents, resp.Header.Get("Content-Type"))
	require.Empty(t, body)
	require.NoError(t, s.stop())
	require.False(t, feed.feed.Followed())
}

// A line is written when there is one, each whole.
func TestEventsAreLines(t *testing.T) {
	feed := newFake()
	s := start(t, Options{Engine: newFake(), Events: feed.Events}, defaultLimits())
	nc := s.dial(t)
	_, err := io.WriteString(nc, "GET /v1/events HTTP/1.0\r\n\r\n")
	require.NoError(t, err)
	expect := func(want string) {
		t.Helper()
		buf := make([]byte, len(want))
		_, err := io.ReadFull(nc, buf)
		require.NoError(t, err)
		require.Equal(t, want, string(buf))
	}
	header := make([]byte, 0, 1000)
	for len(header) < 4 || string(header[len(header)-4:]) != "\r\n\r\n" {
		b := make([]byte, 1)
		_, err := nc.Read(b)
		require.NoError(t, err)
		header = append(header, b...)
	}
	at := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	m := parse(t, "8080->172.17.0.2:80")
	m.Name = "<&>"
	feed.send(nat.EventUnpublished, at, m)
	expect(`{"type":"unpublished","time":"2026-05-04T03:02:01Z","mapping":{"proto":"tcp","host":"","port":8080,"backend":"172.17.0.2:80","name":"<&>","proxy":true}}` + "\n")
	feed.send(nat.EventExpired, at)
	expect(`{"type":"expired","time":"2026-05-04T03:02:01Z"}` + "\n")
}
