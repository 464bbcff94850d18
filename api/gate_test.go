// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// gone reads until the server has closed the connection.
func gone(t *testing.T, nc net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, nc)
	if err != nil {
		require.ErrorIs(t, err, syscall.ECONNRESET)
	}
}

// 1,500 connections that say nothing, or half of something, do not keep others out.
func TestHalfOpen(t *testing.T) {
	var most syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &most))
	if most.Cur < 3500 {
		t.Skipf("needs 3,500 descriptors, and may have %d", most.Cur)
	}
	l := defaultLimits()
	l.headerTime, l.bodyTime = time.Hour, time.Hour // time alone does not help
	s := start(t, Options{Engine: newFake()}, l)
	starts := []string{"", "G", "GET /v1/mappings HTTP/1.1\r\nHost: x\r\n",
		"POST /v1/mappings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n["}
	var open []net.Conn
	for i := range 1500 {
		nc := s.dial(t)
		_, _ = io.WriteString(nc, starts[i%len(starts)]) // it may be closed already
		open = append(open, nc)
	}
	var wg sync.WaitGroup
	failures := make(chan error, 8)
	for i := range 8 {
		wg.Go(func() {
			for port := range 10 {
				m, err := nat.ParseMapping("tcp", fmt.Sprint(1+10*i+port), "172.17.0.2:80")
				if err == nil {
					_, err = s.Publish(t.Context(), nat.PublishOptions{}, m)
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

// A connection that has only just been made is not closed for another one.
func TestGrace(t *testing.T) {
	l := defaultLimits()
	l.others, l.silence = 1, time.Hour
	s := start(t, Options{Engine: newFake()}, l)
	first := s.dial(t)
	listed := make(chan error)
	go func() {
		_, err := s.Mappings(context.Background())
		listed <- err
	}()
	time.Sleep(20 * time.Millisecond) // it is likely to wait by now; if not, nothing is shown
	_, err := io.WriteString(first, "GET /v1/mappings HTTP/1.0\r\n\r\n")
	require.NoError(t, err)
	resp, _ := answer(t, first)
	require.Equal(t, 200, resp.StatusCode)
	require.NoError(t, <-listed)
}

// A connection without a request has no place that another one would wait for.
func TestIdleGiveWay(t *testing.T) {
	l := defaultLimits()
	l.conns, l.grace = 2, time.Hour
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
	l.conns, l.grace, l.patience = 2, time.Millisecond, time.Hour
	s := start(t, Options{Engine: fake}, l)
	m := parse(t, "8080->172.17.0.2:80")
	published := make(chan error)
	go func() {
		_, err := s.Publish(context.Background(), nat.PublishOptions{}, m)
		published <- err
	}()
	<-fake.entered
	for range 20 {
		_, err := s.Mappings(t.Context()) // by the one other place
		require.NoError(t, err)
	}
	// Now there is none: with both places at work the third waits.
	go func() {
		_, err := s.Remove(context.Background(), nat.Removal{Mappings: []nat.Mapping{m}})
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

// fill takes all places of a server whose engine waits, with requests that are answered
// when it does so no more.
func fill(t *testing.T, s *service, fake *fakeEngine, places int) (answers chan error) {
	t.Helper()
	answers = make(chan error, places)
	for i := range places {
		m := parse(t, fmt.Sprintf("%d->172.17.0.2:80", 1+i))
		go func() {
			_, err := s.Publish(context.Background(), nat.PublishOptions{}, m)
			answers <- err
		}()
		<-fake.entered
	}
	return answers
}

// However many clients come at the same instant, each is answered: what has no place
// is told to come again.
func TestEachIsAnswered(t *testing.T) {
	fake := newFake()
	fake.entered, fake.leave = make(chan struct{}), make(chan struct{})
	l := defaultLimits()
	l.conns, l.others, l.patience, l.silence = 8, 8, 50*time.Millisecond, time.Hour
	s := start(t, Options{Engine: fake}, l)
	served := fill(t, s, fake, l.conns)
	const clients = 400
	m := parse(t, "9000->172.17.0.2:80")
	answers := make(chan error, clients)
	for range clients {
		go func() {
			_, err := s.Publish(context.Background(), nat.PublishOptions{}, m)
			answers <- err
		}()
	}
	for range clients {
		err := <-answers
		require.ErrorIs(t, err, ErrBusy)
		require.EqualError(t, err, "the server has as many clients as it may at once")
	}
	resp, _ := s.do(t, "GET", "/v1/mappings", "", "")
	require.Equal(t, 503, resp.StatusCode)
	require.Equal(t, "1", resp.Header.Get("Retry-After"))
	require.True(t, resp.Close)
	for range l.conns {
		fake.leave <- struct{}{}
		require.NoError(t, <-served)
	}
	_, err := s.Mappings(t.Context())
	require.NoError(t, err)
	require.Equal(t, l.conns, fake.changed())
}

// Who is turned away before it has asked anything is answered when it does: served if
// there is a place again, and told to come again if not.
func TestTurnedAwayAsksLater(t *testing.T) {
	fake := newFake()
	fake.entered, fake.leave = make(chan struct{}), make(chan struct{})
	l := defaultLimits()
	l.conns, l.others, l.patience = 1, 3, 50*time.Millisecond
	s := start(t, Options{Engine: fake}, l)
	first, second := s.dial(t), s.dial(t)
	third := s.dial(t)
	_, err := io.WriteString(third, "DELETE /v1/mappings/tcp/80 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	require.NoError(t, err)
	<-fake.entered
	_, err = io.WriteString(first, "GET /v1/mappings HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	resp, _ := answer(t, first)
	require.Equal(t, 503, resp.StatusCode)
	require.True(t, resp.Close)
	gone(t, first)
	fake.leave <- struct{}{}
	gone(t, third) // and with it its place is free
	_, err = io.WriteString(second, "GET /v1/mappings HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	resp, _ = answer(t, second)
	require.Equal(t, 200, resp.StatusCode)
}

// A body that takes its time while others wait for the place is not waited for.
func TestTurnedAwayInItsBody(t *testing.T) {
	l := defaultLimits()
	l.conns, l.grace, l.bodyTime = 1, time.Millisecond, time.Hour
	fake := newFake()
	fake.entered, fake.leave = make(chan struct{}), make(chan struct{})
	s := start(t, Options{Engine: fake}, l)
	slow := s.dial(t)
	_, err := io.WriteString(slow, "POST /v1/mappings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n[")
	require.NoError(t, err)
	served := fill(t, s, fake, 1)
	_, _ = io.WriteString(slow, "{") // it may or may not have been told by now
	resp, body := answer(t, slow)
	require.Equal(t, 503, resp.StatusCode, body)
	require.Contains(t, body, `"code":"busy"`)
	fake.leave <- struct{}{}
	require.NoError(t, <-served)
}

// Who neither has a place nor asks for anything is closed for another one, and no
// earlier than it would be tired of waiting.
func TestTurnedAwayAreBounded(t *testing.T) {
	l := defaultLimits()
	l.others, l.silence = 1, 20*time.Millisecond
	s := start(t, Options{Engine: newFake()}, l)
	first := s.dial(t)
	for range 3 {
		s.dial(t)
	}
	_, err := s.Mappings(t.Context())
	require.NoError(t, err)
	gone(t, first)
}
