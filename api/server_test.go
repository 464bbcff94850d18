// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// What is under way at shutdown is answered; what only waits is closed and not waited
// for, which would be told in the log.
func TestShutdown(t *testing.T) {
	var log bytes.Buffer
	fake := newFake()
	fake.entered, fake.leave = make(chan struct{}), make(chan struct{})
	feed := newFake()
	l := defaultLimits()
	l.headerTime = time.Hour
	l.drainTime, l.lastTime = 4*time.Second, time.Second
	s := start(t, Options{Engine: fake, Events: feed.Events, Log: slog.New(slog.NewTextHandler(&log, nil))}, l)

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
		feed.send(nat.EventPublished, time.Now(), parse(t, "8080->172.17.0.2:80"))
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
		_, err := s.Publish(context.Background(), nat.PublishOptions{}, m)
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
		_, err := s.Publish(context.Background(), nat.PublishOptions{}, m)
		published <- err
	}()
	<-fake.entered
	require.ErrorContains(t, s.stop(), "requests are still under way")
	require.ErrorIs(t, <-published, io.EOF)
	fake.leave <- struct{}{}
}

// A listener that fails ends the server, with what is under way.
func TestListenerFails(t *testing.T) {
	feed := newFake()
	s := start(t, Options{Engine: newFake(), Events: feed.Events}, defaultLimits())
	require.NoError(t, s.stop())

	l, err := Listen(s.path, -1)
	require.NoError(t, err)
	done := make(chan error)
	go func() {
		done <- NewServer(Options{Engine: newFake(), Events: feed.Events}).Serve(context.Background(), l)
	}()
	events, err := NewClient(s.path).Events(t.Context())
	require.NoError(t, err)
	require.NoError(t, l.(*socket).current().Close())
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
