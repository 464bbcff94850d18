// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
)

// gone reads until the server has closed the connection.
func gone(t *testing.T, nc net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, nc)
	if err != nil {
		require.ErrorIs(t, err, syscall.ECONNRESET)
	}
}

// 1,000 connections that say nothing, or half of something, do not keep others out.
func TestHalfOpen(t *testing.T) {
	var most syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &most))
	if most.Cur < 2000 {
		t.Skipf("needs 2,000 descriptors, and may have %d", most.Cur)
	}
	l := defaultLimits()
	l.headerTime, l.bodyTime = time.Hour, time.Hour // time alone does not help
	s := start(t, Options{Engine: newFake()}, l)
	starts := []string{"", "G", "GET /v1/mappings HTTP/1.1\r\nHost: x\r\n",
		"POST /v1/mappings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n["}
	var open []net.Conn
	for i := range 1000 {
		nc := s.dial(t)
		_, _ = io.WriteString(nc, starts[i%len(starts)]) // it may be closed already
		open = append(open, nc)
	}
	var wg sync.WaitGroup
	failures := make(chan error, 8)
	for i := range 8 {
		wg.Go(func() {
			for port := range 10 {
				m, err := engine.NewMapping("tcp", fmt.Sprint(1+10*i+port), "172.17.0.2:80")
				if err == nil {
					_, err = s.Publish(t.Context(), m)
				}
				if err != nil {
					failures <- err
					return
				}
			}
			failures <- nil
		})
	}
	wg.Wait()
	for range 8 {
		require.NoError(t, <-failures)
	}
	// They are many more than the server keeps.
	gone(t, open[0])
}

// The first to be closed for another one is one that has no request.
func TestIdleGiveWay(t *testing.T) {
	l := defaultLimits()
	l.conns, l.grace = 2, time.Millisecond
	s := start(t, Options{Engine: newFake()}, l)
	talking := s.dial(t)
	_, err := io.WriteString(talking, "POST /v1/mappings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
	require.NoError(t, err)
	_, err = io.ReadFull(talking, make([]byte, len("HTTP/1.1 100 Continue\r\n\r\n")))
	require.NoError(t, err)
	idle := s.dial(t)
	_, err = io.WriteString(idle, "GET /v1/mappings HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	resp, _ := answer(t, idle)
	require.Equal(t, 200, resp.StatusCode)

	_, err = s.Mappings(t.Context())
	require.NoError(t, err)
	gone(t, idle)
	_, err = io.WriteString(talking, "[]")
	require.NoError(t, err)
	resp, _ = answer(t, talking)
	require.Equal(t, 201, resp.StatusCode)
}

// A connection that is at work is not closed, however many others come.
func TestWorkIsNotInterrupted(t *testing.T) {
	fake := newFake()
	fake.entered, fake.leave = make(chan struct{}), make(chan struct{})
	l := defaultLimits()
	l.conns, l.grace = 2, time.Millisecond
	s := start(t, Options{Engine: fake}, l)
	m := parse(t, "8080->172.17.0.2:80")
	published := make(chan error)
	go func() {
		_, err := s.Publish(context.Background(), m)
		published <- err
	}()
	<-fake.entered
	for range 20 {
		_, err := s.Mappings(t.Context()) // by the one other place
		require.NoError(t, err)
	}
	// Now there is none: with both places at work the third waits.
	go func() {
		_, err := s.Unpublish(context.Background(), m)
		published <- err
	}()
	<-fake.entered
	listed := make(chan error)
	go func() {
		_, err := s.Mappings(context.Background())
		listed <- err
	}()
	select {
	case err := <-listed:
		require.Fail(t, "served a third connection", "%v", err)
	case <-time.After(50 * time.Millisecond):
	}
	fake.leave <- struct{}{}
	fake.leave <- struct{}{}
	require.NoError(t, <-listed)
	errs := []error{<-published, <-published}
	if errs[0] != nil && errs[1] != nil {
		require.NoError(t, errs[0])
	}
}

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
	ms := make([]engine.Mapping, 0, 60000)
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
	require.Equal(t, ms, all)
	for range 3 {
		_, err = s.Publish(t.Context(), ms...)
		require.ErrorIs(t, err, engine.ErrInvalid)
		require.EqualError(t, err, "read body: it is larger than 102400 bytes")
	}
}

// What is under way at shutdown is answered; what only waits is closed and not waited
// for, which would be told in the log.
func TestShutdown(t *testing.T) {
	var log bytes.Buffer
	fake := newFake()
	fake.entered, fake.leave = make(chan struct{}), make(chan struct{})
	feed := &Feed{}
	l := defaultLimits()
	l.headerTime = time.Hour
	l.drainTime, l.lastTime = 4*time.Second, 50*time.Millisecond
	s := start(t, Options{Engine: fake, Events: feed, Log: slog.New(slog.NewTextHandler(&log, nil))}, l)

	silent := s.dial(t)
	half := s.dial(t)
	_, err := io.WriteString(half, "GET / HTTP/1.1\r\nHo")
	require.NoError(t, err)
	kept := s.dial(t)
	_, err = io.WriteString(kept, "GET /v1/mappings HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	resp, _ := answer(t, kept)
	require.Equal(t, 200, resp.StatusCode)
	require.False(t, resp.Close)

	// One reader who is up to date, and one who does not read.
	reading, err := s.Events(t.Context())
	require.NoError(t, err)
	stuck := s.dial(t)
	_, err = io.WriteString(stuck, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	for range 5000 {
		feed.Send(EventPublished, time.Now(), parse(t, "8080->172.17.0.2:80"))
	}
	read := make(chan int)
	go func() {
		n := 0
		for e, err := range reading {
			if err != nil {
				n = -1
				break
			}
			if e.Type == EventPublished {
				n++
			}
		}
		read <- n
	}()
	published := make(chan error)
	m := parse(t, "8080->172.17.0.2:80")
	go func() {
		_, err := s.Publish(context.Background(), m)
		published <- err
	}()
	<-fake.entered

	s.cancel()
	gone(t, silent)
	gone(t, half)
	gone(t, kept)
	n := <-read
	require.GreaterOrEqual(t, n, 0, "the stream ends as it should")
	_, err = s.Mappings(t.Context())
	require.ErrorIs(t, err, ErrNoServer)
	fake.leave <- struct{}{}
	require.NoError(t, <-published)
	require.NoError(t, s.stop())
	require.Empty(t, log.String())
	_, err = os.Lstat(s.path)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// A client that takes its time does not hold up the end for longer than it may.
func TestShutdownIsBounded(t *testing.T) {
	l := defaultLimits()
	l.drainTime = 50 * time.Millisecond
	s := start(t, Options{Engine: newFake()}, l)
	slow := s.dial(t)
	_, err := io.WriteString(slow, "POST /v1/mappings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
	require.NoError(t, err)
	// "100 Continue" says that the body is being read.
	_, err = io.ReadFull(slow, make([]byte, len("HTTP/1.1 100 Continue\r\n\r\n")))
	require.NoError(t, err)
	require.NoError(t, s.stop())
	gone(t, slow)
}

// An engine that does not come back is reported, not waited for.
func TestShutdownWithoutEngine(t *testing.T) {
	fake := newFake()
	fake.entered, fake.leave = make(chan struct{}), make(chan struct{})
	l := defaultLimits()
	l.drainTime = 20 * time.Millisecond
	s := start(t, Options{Engine: fake}, l)
	published := make(chan error)
	m := parse(t, "8080->172.17.0.2:80")
	go func() {
		_, err := s.Publish(context.Background(), m)
		published <- err
	}()
	<-fake.entered
	require.ErrorContains(t, s.stop(), "requests are still under way")
	require.ErrorIs(t, <-published, io.EOF)
	fake.leave <- struct{}{}
}

// A listener that fails ends the server, with what is under way.
func TestListenerFails(t *testing.T) {
	feed := &Feed{}
	s := start(t, Options{Engine: newFake(), Events: feed}, defaultLimits())
	require.NoError(t, s.stop())

	l, err := Listen(s.path, -1)
	require.NoError(t, err)
	done := make(chan error)
	go func() {
		done <- NewServer(Options{Engine: newFake(), Events: feed}).Serve(context.Background(), l)
	}()
	events, err := NewClient(s.path).Events(t.Context())
	require.NoError(t, err)
	require.NoError(t, l.(*socket).UnixListener.Close())
	require.ErrorIs(t, <-done, net.ErrClosed)
	for _, err := range events {
		require.NoError(t, err)
	}
}

// Running out of descriptors is over when it is over.
func TestSurvivesAcceptErrors(t *testing.T) {
	s := start(t, Options{Engine: newFake()}, defaultLimits())
	require.NoError(t, s.stop())
	l, err := Listen(s.path, -1)
	require.NoError(t, err)
	poor := &poorListener{Listener: l, left: 3}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- NewServer(Options{Engine: newFake()}).Serve(ctx, poor) }()
	_, err = NewClient(s.path).Mappings(t.Context())
	require.NoError(t, err)
	cancel()
	require.NoError(t, <-done)
	require.Zero(t, poor.left)
}

// poorListener has no descriptors left for the first few times.
type poorListener struct {
	net.Listener
	left int
}

func (p *poorListener) Accept() (net.Conn, error) {
	if p.left > 0 {
		p.left--
		return nil, &net.OpError{Op: "accept", Net: "unix", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return p.Listener.Accept()
}
