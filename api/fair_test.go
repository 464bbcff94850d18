// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// childHold makes connections, of which each begins as is said, says that it has, and
// keeps them for as long as its standard input is open.
func childHold(args []string) int {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return 1
	}
	held := make([]net.Conn, n) // or they would be closed as garbage
	for i := range held {
		if held[i], err = net.Dial("unix", args[0]); err != nil {
			fmt.Println(err)
			return 1
		}
		_, _ = io.WriteString(held[i], args[2]) // it may have been closed for the next
	}
	fmt.Println("held")
	_, _ = io.Copy(io.Discard, os.Stdin)
	for _, nc := range held {
		_ = nc.Close()
	}
	return 0
}

// hold has another process make connections and keep them.
func hold(t *testing.T, s *service, n int, beginning string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], s.path, strconv.Itoa(n), beginning)
	cmd.Env = append(os.Environ(), envChild+"=hold", quickExit)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, in.Close())
		require.NoError(t, cmd.Wait())
	})
	said := make([]byte, len("held\n"))
	_, err = io.ReadFull(out, said)
	require.NoError(t, err)
	require.Equal(t, "held\n", string(said))
}

const halfBody = "POST /v1/mappings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n["

// A process that has all places with requests that do not end keeps nobody out: it is the
// one that gives them up, at once and not when it is late.
func TestPlacesAreShared(t *testing.T) {
	l := defaultLimits()
	l.conns, l.share = 8, 4
	l.grace, l.patience, l.bodyTime = time.Hour, time.Hour, time.Hour
	s := start(t, Options{Engine: newFake()}, l)
	hold(t, s, 20, halfBody)
	for range 10 {
		_, err := s.Mappings(t.Context())
		require.NoError(t, err)
	}
}

// Nor does one that has all connections that there may be, and says nothing.
func TestConnectionsAreShared(t *testing.T) {
	l := defaultLimits()
	l.others, l.share = 8, 2
	l.silence, l.hush, l.headerTime = time.Hour, time.Millisecond, time.Hour
	s := start(t, Options{Engine: newFake()}, l)
	for _, beginning := range []string{"", "GET /v1/mappings HTTP/1.1\r\nHo"} {
		hold(t, s, 20, beginning)
		for range 10 {
			_, err := s.Mappings(t.Context())
			require.NoError(t, err)
		}
	}
}

// Of those that wait for a place the next is of the process that has fewest, whoever came
// first.
func TestPlacesGoRound(t *testing.T) {
	fake := newFake()
	fake.entered, fake.leave = make(chan struct{}), make(chan struct{})
	l := defaultLimits()
	l.conns, l.patience = 2, time.Hour
	s := start(t, Options{Engine: fake}, l)
	const body = `[{"proto":"tcp","port":1,"backend":"172.17.0.2:80"}]`
	hold(t, s, 5, fmt.Sprintf("POST /v1/mappings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
	<-fake.entered
	<-fake.entered
	listed := make(chan error, 1)
	go func() {
		_, err := s.Mappings(context.Background())
		listed <- err
	}()
	time.Sleep(20 * time.Millisecond) // it is likely to wait by now; if not, nothing is shown
	fake.leave <- struct{}{}
	require.NoError(t, <-listed)
	for left := 4; left > 0; {
		select {
		case <-fake.entered:
		case fake.leave <- struct{}{}:
			left--
		}
	}
}

// A large body waits until another has been decoded, and a small one does not.
func TestLargeBodiesTakeTurns(t *testing.T) {
	opts, fake := wired(t)
	l := defaultLimits()
	l.bodyTime = 50 * time.Millisecond
	h := newHandler(opts.withDefaults(), l)
	h.decodes <- struct{}{}
	status := func(method, path, body string) int {
		r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", typeJSON)
		return ask(h, r).Code
	}
	large := "[" + strings.Repeat(" ", int(l.large)) + "]"
	for path, wants := range map[string]int{"/v1/mappings": 201, "/v1/networks": 400, "/v1/endpoints": 400} {
		require.Equal(t, 503, status("POST", path, large))
		require.Equal(t, wants, status("POST", path, "[]"))
	}
	require.Equal(t, 503, status("PUT", "/v1/state", large))
	<-h.decodes
	require.Equal(t, 201, status("POST", "/v1/mappings", large))
	require.Equal(t, 2, fake.changed(), "with nothing")
}
