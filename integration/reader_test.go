// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// readers are the command lines that only read. A state file is at PATH.
var readers = []string{
	"ls", "ls --json", "export", "ps", "ps --json", "inspect web", "port web 80", "network ls", "apply --dry-run -f PATH",
}

const readFromKernel = "nftnat: the daemon does not answer: this is what the kernel holds: error="

// filledTestbed is a host with a daemon and mappings, and what readers print about it.
func filledTestbed(t *testing.T) (s *testbed, lines []string, want map[string]string) {
	t.Helper()
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s = newTestbed(t, top.Host)
	s.succeed(t, "network create inside 172.31.0.0/24")
	s.succeed(t, "attach web --network inside -p 8080:80")
	s.succeed(t, "add --quiet tcp 9000-9099 172.30.0.2:9000-9099 --name many")
	path := filepath.Join(t.TempDir(), "state.yaml")
	require.NoError(t, os.WriteFile(path, []byte("mappings:\n  - 1->172.30.0.2:1\n"), 0o600))
	want = map[string]string{}
	for _, line := range readers {
		line = strings.ReplaceAll(line, "PATH", path)
		lines = append(lines, line)
		want[line] = s.succeed(t, line)
	}
	return s, lines, want
}

// If the daemon is stopped, commands that read print what the kernel holds.
func TestReadersOfStoppedDaemon(t *testing.T) {
	labtest.LongOnly(t, "5 s for which commands wait for a daemon that is stopped")
	t.Parallel() // it waits
	s, lines, want := filledTestbed(t)
	pid := s.daemon(t)
	daemon := "daemon  +none answers: localhost is not served"
	if s.status(t).Table.Owned { // Linux 6.9 or later
		daemon = "daemon  +gives no answer, but a process owns the table\ntable  +inet nftnat, owned\n"
	}
	require.NoError(t, unix.Kill(pid, unix.SIGSTOP))
	results := make([]labtest.Result, len(lines))
	var r labtest.Result
	var running sync.WaitGroup
	for i, line := range lines {
		running.Go(func() { results[i] = s.run(t, line) })
	}
	running.Go(func() { r = s.run(t, "status") })
	running.Wait()
	require.NoError(t, unix.Kill(pid, unix.SIGCONT))
	for i, line := range lines {
		require.Zero(t, results[i].Code, "%s: %s", line, results[i].Stderr)
		require.Equal(t, want[line], results[i].Stdout, line)
		require.Regexp(t, "^"+readFromKernel+`.*does not answer: context deadline exceeded"?\n$`, results[i].Stderr, line)
	}
	require.Zero(t, r.Code, r.Stderr)
	require.Regexp(t, "^"+daemon, r.Stdout)
	require.Contains(t, r.Stdout, "mappings  ")
	require.Regexp(t, "^"+readFromKernel, r.Stderr)
	require.Equal(t, want["ls"], s.succeed(t, "ls"))
}

// If the daemon ends in the middle of its answer, commands that read print what the kernel
// holds, once.
func TestReadersOfCutAnswer(t *testing.T) {
	s, lines, want := filledTestbed(t)
	behind := s.client()
	path := filepath.Join(filepath.Dir(s.socket), "cut.sock")
	listener, err := net.Listen("unix", path)
	require.NoError(t, err)
	var (
		serving sync.WaitGroup
		mu      sync.Mutex
		cut     func(answer []byte) (sent []byte)
	)
	answer := func(nc net.Conn) error {
		defer nc.Close()
		lines := bufio.NewReader(nc)
		first, err := lines.Peek(len("GET /v1/daemon "))
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		which := bytes.HasSuffix(first, []byte("/v1/daemon "))
		req, err := http.ReadRequest(lines)
		if err != nil {
			return err
		}
		req.RequestURI, req.URL.Scheme, req.URL.Host = "", "http", "nftnat"
		resp, err := behind.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := httputil.DumpResponse(resp, true)
		if err == nil && !which {
			text = cut(text)
		}
		_, writeErr := nc.Write(text)
		return errors.Join(err, writeErr)
	}
	serving.Go(func() {
		for {
			nc, err := listener.Accept()
			if err != nil {
				return
			}
			_ = answer(nc) // the command checks for errors
		}
	})
	defer serving.Wait()
	defer listener.Close()
	through := &testbed{ns: s.ns, args: []string{"--socket", path}}
	for name, part := range map[string]func(int) int{
		"nothing": func(int) int { return 0 }, "a part of the first line": func(int) int { return 5 },
		"a part of the header": func(int) int { return 20 },
		"all but its end":      func(n int) int { return n - 3 },
	} {
		mu.Lock()
		cut = func(answer []byte) []byte { return answer[:part(len(answer))] }
		mu.Unlock()
		for _, line := range lines {
			r := through.run(t, line)
			require.Zero(t, r.Code, "%s of %s: %s", name, line, r.Stderr)
			require.Equal(t, want[line], r.Stdout, "%s of %s", name, line)
			require.Regexp(t, "^"+readFromKernel+".*\n$", r.Stderr, "%s of %s", name, line)
		}
	}
	// An error response is an answer.
	mu.Lock()
	cut = func(answer []byte) []byte { return answer }
	mu.Unlock()
	r := through.run(t, "inspect nobody")
	require.Equal(t, 4, r.Code)
	require.NotContains(t, r.Stderr, readFromKernel)
	// A command that makes a change fails, and nothing is done twice.
	mu.Lock()
	cut = func([]byte) []byte { return nil }
	mu.Unlock()
	r = through.run(t, "add tcp 7000 172.30.0.2:7000")
	require.Equal(t, 1, r.Code)
	require.Equal(t, fmt.Sprintf("nftnat: ask %s: the server closed the connection: EOF\n", path), r.Stderr)
}

// If a daemon is killed, commands that read still get an answer.
func TestReadersOfKilledDaemon(t *testing.T) {
	s, _, want := filledTestbed(t)
	for range 10 {
		results := make([]labtest.Result, 8)
		var running sync.WaitGroup
		for i := range results {
			running.Go(func() { results[i] = s.run(t, "ls --json") })
		}
		kill(t, s.daemon(t), unix.SIGKILL)
		running.Wait()
		for _, r := range results {
			require.Zero(t, r.Code, r.Stderr)
			require.Equal(t, want["ls --json"], r.Stdout)
		}
		s.succeed(t, "add --quiet tcp 7000 172.30.0.2:7000") // starts one
		s.succeed(t, "rm --quiet tcp 7000")
	}
}
