// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// Headers and bodies that do not come are not waited for.
func TestSlow(t *testing.T) {
	fake := newFake()
	s := start(t, Options{Engine: fake}, quick())

	silent := s.dial(t)
	header := s.dial(t)
	_, err := io.WriteString(header, "GET /v1/mappings HTTP/1.1\r\nHo")
	require.NoError(t, err)
	gone(t, silent)
	gone(t, header)

	for _, method := range []string{"POST", "PUT"} {
		resp, body := s.speak(t, method+" /v1/mappings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n[{")
		require.Equal(t, http.StatusRequestTimeout, resp.StatusCode)
		require.Contains(t, body, "read body: it did not come within 200ms")
		require.True(t, resp.Close)
	}
	// A byte at a time is no faster.
	drip := s.dial(t)
	_, err = io.WriteString(drip, "POST /v1/mappings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
	require.NoError(t, err)
	for {
		if _, err := io.WriteString(drip, "1\r\n \r\n"); err != nil {
			require.ErrorIs(t, err, syscall.EPIPE)
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	require.Zero(t, fake.changed())

	// A body that nobody wants does not hold the connection either.
	for request, want := range map[string]int{
		"POST /v1/status":  http.StatusMethodNotAllowed,
		"GET /v1/mappings": http.StatusBadRequest,
		"PUT /v1/mappings": http.StatusUnsupportedMediaType,
	} {
		nc := s.dial(t)
		_, err := io.WriteString(nc, request+" HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n[{")
		require.NoError(t, err)
		resp, _ := answer(t, nc)
		require.Equal(t, want, resp.StatusCode)
		gone(t, nc)
	}
}

// What is left of a body that was refused is not taken for another request.
func TestLeftoverIsNoRequest(t *testing.T) {
	fake := newFake(parse(t, "8080->172.17.0.2:80"))
	s := start(t, Options{Engine: fake}, quick())
	for _, path := range []string{"/v1/status", "/v1/mappings"} {
		nc := s.dial(t)
		_, err := fmt.Fprintf(nc, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", path)
		require.NoError(t, err)
		r := bufio.NewReader(nc)
		resp, err := http.ReadResponse(r, nil)
		require.NoError(t, err)
		require.GreaterOrEqual(t, resp.StatusCode, 400)
		require.True(t, resp.Close)
		time.Sleep(300 * time.Millisecond) // until the body is late
		_, _ = io.WriteString(nc, "DELETE /v1/mappings/tcp/8080 HTTP/1.1\r\nHost: x\r\n\r\n")
		gone(t, nc)
	}
	require.Zero(t, fake.changed())
}

// Nor is it waited for: a refusal comes at once.
func TestRefusalBeforeBody(t *testing.T) {
	l := defaultLimits()
	l.bodyTime = time.Hour
	s := start(t, Options{Engine: newFake()}, l)
	for _, method := range []string{"POST", "GET"} {
		resp, _ := s.speak(t, method+" /v1/nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n[{")
		require.Equal(t, http.StatusNotFound, resp.StatusCode)
	}
}

// A request that takes longer than its body may does not suffer for that, nor does
// the next one on its connection.
func TestLongWork(t *testing.T) {
	fake := newFake()
	fake.entered, fake.leave = make(chan struct{}), make(chan struct{})
	l := quick()
	l.bodyTime = 20 * time.Millisecond
	s := start(t, Options{Engine: fake}, l)
	nc := s.dial(t)
	for port := range 2 {
		body := fmt.Sprintf(`[{"proto":"tcp","port":%d,"backend":"172.17.0.2:80"}]`, 1+port)
		_, err := fmt.Fprintf(nc, "POST /v1/mappings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		require.NoError(t, err)
		<-fake.entered
		time.Sleep(3 * l.bodyTime)
		fake.leave <- struct{}{}
		resp, text := answer(t, nc)
		require.Equal(t, 201, resp.StatusCode, text)
		require.False(t, resp.Close)
	}
}

func TestOversized(t *testing.T) {
	fake := newFake()
	l := quick()
	l.body, l.apply = 1000, 2000
	s := start(t, Options{Engine: fake}, l)
	for _, tt := range []struct {
		method string
		size   int
		want   int
	}{
		{"POST", 1000, 201}, {"POST", 1001, 413}, {"POST", 5 << 20, 413},
		{"PUT", 2000, 200}, {"PUT", 2001, 413}, {"PUT", 5 << 20, 413},
	} {
		body := "[" + strings.Repeat(" ", tt.size-2) + "]"
		resp, text := s.do(t, tt.method, "/v1/mappings", "application/json", body)
		require.Equal(t, tt.want, resp.StatusCode, text)
		// Without saying how much it will be.
		chunked := fmt.Sprintf("%s /v1/mappings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"+
			"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", tt.method, min(len(body), 4000), body[:min(len(body), 4000)])
		resp, text = s.speak(t, chunked)
		require.Equal(t, tt.want, resp.StatusCode, text)
	}
	resp, _ := s.speak(t, "GET /v1/mappings HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 30<<10)+"\r\n\r\n")
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, resp.StatusCode)
}

// A body as large as can be is taken by the client's way, and a larger one is refused
// in so many words, every time.
func TestClientOversized(t *testing.T) {
	l := defaultLimits()
	l.body, l.apply = 100<<10, 16<<20
	s := start(t, Options{Engine: newFake()}, l)
	ms := make([]nat.Mapping, 0, 60000)
	for port := range 60000 {
		m := parse(t, fmt.Sprintf("%d->172.17.0.2:%d", port+1, port+1))
		m.Name = strings.Repeat("x", 63)
		ms = append(ms, m)
	}
	changes, err := s.Apply(t.Context(), ms...)
	require.NoError(t, err)
	require.Len(t, changes, 1)
	all, err := s.Mappings(t.Context())
	require.NoError(t, err)
	require.Equal(t, nat.Collapse(ms), all)
	for range 3 {
		_, err = s.Publish(t.Context(), nat.PublishOptions{}, ms...)
		require.ErrorIs(t, err, nat.ErrInvalid)
		require.EqualError(t, err, "read body: it is larger than 102400 bytes")
	}
}
