// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/nat"
)

// sessionOf is a mapping that this process can have in a session.
func sessionOf(t *testing.T) nat.Mapping {
	t.Helper()
	m, err := nat.ParseMappingText("8080->172.17.0.2:80")
	require.NoError(t, err)
	owner, err := ThisSessionOwner()
	require.NoError(t, err)
	m.Name = owner.String()
	return m
}

// sessionServer is a server that sends the sessions of its clients.
func sessionServer(t *testing.T, refusal error) (*service, <-chan Session) {
	t.Helper()
	opts, _ := wired(t)
	sessions := make(chan Session, 8)
	opts.Sessions = func(_ context.Context, s Session) ([]nat.Mapping, error) {
		if refusal == nil {
			sessions <- s
		}
		return s.Mappings, refusal
	}
	return start(t, opts, defaultLimits()), sessions
}

func (c *contract) sessionOpened(t *testing.T) {
	t.Helper()
	s, sessions := sessionServer(t, nil)
	nc, _, err := s.Session(t.Context(), nil, sessionOf(t))
	require.NoError(t, err)
	require.NoError(t, errors.Join(nc.Close(), (<-sessions).Conn.Close()))
	c.statuses["POST /v1/sessions 101"] = true
}

// The mappings and sockets of a session come to the server, and each sees the other's end.
func TestSession(t *testing.T) {
	var sockets []int
	for range 2 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		require.NoError(t, err)
		sockets = append(sockets, fd)
	}
	opts, _ := wired(t)
	ended := make(chan error, 1)
	opts.Sessions = func(_ context.Context, s Session) ([]nat.Mapping, error) {
		for i, fd := range s.Sockets {
			var got, want unix.Stat_t
			if err := errors.Join(unix.Fstat(fd, &got), unix.Fstat(sockets[i], &want)); err != nil || got.Ino != want.Ino {
				return nil, errors.Join(err, errors.New("another socket has come"))
			}
		}
		go func() {
			_, err := s.Conn.Read(make([]byte, 1))
			ended <- err
			_ = s.Conn.Close()
		}()
		return s.Mappings, nil
	}
	s := start(t, opts, defaultLimits())
	m := sessionOf(t)
	nc, done, err := s.Session(t.Context(), sockets, m)
	require.NoError(t, err)
	require.Equal(t, []nat.Mapping{m}, done)
	for _, fd := range sockets {
		require.NoError(t, unix.Close(fd))
	}
	select {
	case err := <-ended:
		t.Fatal(err)
	case <-time.After(10 * time.Millisecond):
	}
	require.NoError(t, nc.CloseWrite())
	require.ErrorIs(t, <-ended, io.EOF)
	_, err = nc.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, nc.Close())
}

// What the server refuses is the same error for the client, and bad input is refused before.
func TestSessionRefused(t *testing.T) {
	m := sessionOf(t)
	s, _ := sessionServer(t, &nat.ConflictError{Want: m, Have: m})
	_, _, err := s.Session(t.Context(), nil, m)
	var conflict *nat.ConflictError
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, m, conflict.Have)

	s, _ = sessionServer(t, nil)
	other := m
	other.Name = "web"
	for _, ms := range [][]nat.Mapping{{}, {other}, {m, other}} {
		_, _, err = s.Session(t.Context(), nil, ms...)
		require.ErrorIs(t, err, nat.ErrInvalid)
	}
	for _, line := range []string{"\n", "{}\n", "[1]\n", "[]\nx", `[{"proto":"tcp"}]` + "\n", strings.Repeat("x", 2*maxSession), "\x00\n", `[]` + "\n\n"} {
		nc, err := s.switchTo(t.Context(), "/v1/sessions", upgradeSession)
		require.NoError(t, err)
		_, _ = io.WriteString(nc, line) // the server may have closed the connection
		answer, err := io.ReadAll(nc)
		if !errors.Is(err, unix.ECONNRESET) {
			require.NoError(t, err, line)
			require.Contains(t, string(answer), `{"problem":{`, line)
		}
		require.NoError(t, nc.Close())
	}
}

// A client that says nothing is told so, and its descriptors are closed.
func TestSessionTooSlow(t *testing.T) {
	opts, _ := wired(t)
	opts.Sessions = func(context.Context, Session) ([]nat.Mapping, error) { return nil, errors.ErrUnsupported }
	l := defaultLimits()
	l.bodyTime = 10 * time.Millisecond
	s := start(t, opts, l)
	nc, err := s.switchTo(t.Context(), "/v1/sessions", upgradeSession)
	require.NoError(t, err)
	r, w, err := socketPair()
	require.NoError(t, err)
	_, _, err = nc.WriteMsgUnix([]byte("["), unix.UnixRights(w), nil)
	require.NoError(t, errors.Join(err, unix.Close(w)))
	answer, err := io.ReadAll(nc)
	require.NoError(t, err)
	require.Contains(t, string(answer), `"code":"timeout"`)
	require.NoError(t, nc.Close())
	n, err := unix.Read(r, make([]byte, 1))
	require.NoError(t, err)
	require.Zero(t, n, "the server has closed the other end")
	require.NoError(t, unix.Close(r))
}

func socketPair() (a, b int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	return pair[0], pair[1], err
}

// A process is known by its name.
func TestSessionOwner(t *testing.T) {
	owner, err := ThisSessionOwner()
	require.NoError(t, err)
	require.NoError(t, nat.ValidateName(owner.String()))
	read, ok := ParseSessionOwner(owner.String())
	require.True(t, ok)
	require.Equal(t, owner, read)
	for _, name := range []string{"", "web", "docker:", "docker:web", "docker:01234567-1-2", "docker:01234567-1-2-x", "docker:01234567-1-2-03", "docker:01234567-1-2-3-4"} {
		_, ok := ParseSessionOwner(name)
		require.False(t, ok, name)
	}
}

func FuzzParseSessionOwner(f *testing.F) {
	f.Add("docker:01234567-4026531836-1234-567890")
	f.Add("docker:-1-+2--3")
	f.Fuzz(func(t *testing.T, name string) {
		if o, ok := ParseSessionOwner(name); ok {
			require.Equal(t, name, o.String())
		}
	})
}
