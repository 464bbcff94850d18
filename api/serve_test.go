// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// directory makes a directory that everybody may enter, with a short name: the path
// of a socket may not be long.
func directory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "api")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	return dir
}

// quick are limits that a test need not wait for, but where it is about waiting.
func quick() limits {
	l := defaultLimits()
	l.headerTime, l.bodyTime = 200*time.Millisecond, 200*time.Millisecond
	l.lastTime = 50 * time.Millisecond
	return l
}

// service is a server that runs while a test does.
type service struct {
	*Client
	path   string
	cancel context.CancelFunc
	done   chan error
}

// start runs a server until the test ends, and fails the test if it, or what it
// started, does not end well.
func start(t *testing.T, opts Options, l limits) *service {
	t.Helper()
	labtest.LeakCheck(t)
	path := filepath.Join(directory(t), "s")
	listener, err := Listen(path, -1)
	require.NoError(t, err)
	return startOn(t, listener, opts, l)
}

func startOn(t *testing.T, listener net.Listener, opts Options, l limits) *service {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	path := listener.Addr().String()
	s := &service{Client: NewClient(path), path: path, cancel: cancel, done: make(chan error, 1)}
	server := newServer(opts, l)
	go func() { s.done <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err, ok := <-s.done; ok {
			require.NoError(t, err)
		}
	})
	return s
}

// stop ends the server and returns what Serve returned.
func (s *service) stop() error {
	s.cancel()
	err := <-s.done
	close(s.done)
	return err
}

// dial opens a connection that the test speaks on by itself.
func (s *service) dial(t *testing.T) *net.UnixConn {
	t.Helper()
	nc, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.path, Net: "unix"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = nc.Close() })
	return nc
}

// speak sends text and returns the answer.
func (s *service) speak(t *testing.T, text string) (*http.Response, string) {
	t.Helper()
	nc := s.dial(t)
	_, err := io.WriteString(nc, text)
	require.NoError(t, err)
	return answer(t, nc)
}

func answer(t *testing.T, nc net.Conn) (*http.Response, string) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(body)
}

// do sends a request as another program would.
func (s *service) do(t *testing.T, method, path, contentType, body string, accept ...string) (*http.Response, string) {
	t.Helper()
	resp := s.open(t, method, path, contentType, body, accept...)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(text)
}

// doUntil is do of a stream: seen is called once a line has the text.
func (s *service) doUntil(t *testing.T, text string, seen func(), method, path string, accept ...string) (*http.Response, string) {
	t.Helper()
	resp := s.open(t, method, path, "", "", accept...)
	defer resp.Body.Close()
	var body strings.Builder
	lines := bufio.NewReader(resp.Body)
	for {
		line, err := lines.ReadString('\n')
		body.WriteString(line)
		if errors.Is(err, io.EOF) {
			return resp, body.String()
		}
		require.NoError(t, err)
		if strings.Contains(line, text) {
			seen()
		}
	}
}

func (s *service) open(t *testing.T, method, path, contentType, body string, accept ...string) *http.Response {
	t.Helper()
	transport := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return s.Client.dial(ctx) },
		DisableKeepAlives: true,
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://nftnat"+path, strings.NewReader(body))
	require.NoError(t, err)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for _, mediaType := range accept {
		req.Header.Add("Accept", mediaType)
	}
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)
	return resp
}

// parse reads the text form of a mapping.
func parse(t *testing.T, s string) nat.Mapping {
	t.Helper()
	m, err := nat.ParseMappingText(s)
	require.NoError(t, err)
	return m
}
