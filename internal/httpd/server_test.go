// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package httpd_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/httpd"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// get sends a request and returns the answer, on an open connection.
func get(t *testing.T, nc net.Conn, br *bufio.Reader, path string) string {
	t.Helper()
	_, err := io.WriteString(nc, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	return answered(t, br)
}

func answered(t *testing.T, br *bufio.Reader) string {
	t.Helper()
	resp, err := http.ReadResponse(br, nil)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return fmt.Sprintf("%d %s", resp.StatusCode, body)
}

// closed reads until the server has closed the connection.
func closed(t *testing.T, nc net.Conn) string {
	t.Helper()
	b, err := io.ReadAll(nc)
	if err != nil {
		require.ErrorIs(t, err, syscall.ECONNRESET)
	}
	return string(b)
}

func echo(w http.ResponseWriter, r *http.Request) {
	_, _ = io.WriteString(w, r.URL.Path)
}

// A header that comes too slowly, is too long, or does not come, ends the connection; one that
// comes in small pieces does not.
func TestSlowHeaders(t *testing.T) {
	addr := serve(t, httpd.Options{Handler: http.HandlerFunc(echo), HeaderTimeout: 200 * time.Millisecond, IdleTimeout: 200 * time.Millisecond, MaxHeader: 1000})
	silent := dial(t, addr)
	slow := dial(t, addr)
	go func() {
		for _, b := range "GET / HTTP/1.1\r\nHost: " + strings.Repeat("x", 1000) {
			if _, err := slow.Write([]byte{byte(b)}); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	pieces := dial(t, addr)
	for _, b := range []byte("GET /pieces HTTP/1.1\r\nHost: x\r\n\r\n") {
		_, err := pieces.Write([]byte{b})
		require.NoError(t, err)
	}
	br := bufio.NewReader(pieces)
	require.Equal(t, "200 /pieces", answered(t, br))
	require.Equal(t, "200 /again", get(t, pieces, br, "/again"))
	require.Empty(t, closed(t, silent))
	require.Empty(t, closed(t, slow))
	require.Empty(t, closed(t, pieces), "it was idle")

	most := "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nA: \r\n\r\n"
	for n, want := range map[int]string{1000: "HTTP/1.1 200 OK\r\n", 1001: "HTTP/1.1 431 Request Header Fields Too Large\r\n", 100000: "HTTP/1.1 431 Request Header Fields Too Large\r\n"} {
		text := strings.Replace(most, "A: ", "A: "+strings.Repeat("a", n-len(most)), 1)
		require.True(t, strings.HasPrefix(string(exchange(t, addr, text)), want), n)
	}
	late := dial(t, addr) // after an answer, the time is from the first byte
	br = bufio.NewReader(late)
	require.Equal(t, "200 /", get(t, late, br, "/"))
	_, err := io.WriteString(late, "GET")
	require.NoError(t, err)
	require.Empty(t, closed(t, late))
}

// Bodies are bounded in bytes and time.
func TestBodies(t *testing.T) {
	var got atomic.Pointer[error]
	addr := serve(t, httpd.Options{MaxBody: 10, BodyTimeout: 200 * time.Millisecond, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		got.Store(&err)
		_, _ = w.Write(b)
	})})
	const head = "POST / HTTP/1.1\r\nHost: x\r\n"
	require.Contains(t, string(exchange(t, addr, head+"Connection: close\r\nContent-Length: 10\r\n\r\n0123456789")), "\r\n\r\n0123456789")
	require.NoError(t, *got.Load())
	require.True(t, strings.HasPrefix(string(exchange(t, addr, head+"Content-Length: 11\r\n\r\n0123456789a")), "HTTP/1.1 413 "))
	require.Contains(t, string(exchange(t, addr, head+"Transfer-Encoding: chunked\r\n\r\nb\r\n0123456789a\r\n0\r\n\r\n"+last)), "\r\nConnection: close\r\n")
	require.ErrorAs(t, *got.Load(), new(*http.MaxBytesError))
	nc := dial(t, addr)
	_, err := io.WriteString(nc, head+"Content-Length: 10\r\n\r\n0123")
	require.NoError(t, err)
	require.Contains(t, closed(t, nc), "\r\n\r\n0123")
	require.ErrorIs(t, *got.Load(), os.ErrDeadlineExceeded)
	nc = dial(t, addr)
	_, err = io.WriteString(nc, head+"Content-Length: 10\r\n\r\n0123")
	require.NoError(t, err)
	require.NoError(t, nc.CloseWrite())
	require.Contains(t, closed(t, nc), "\r\n\r\n0123")
	require.ErrorIs(t, *got.Load(), io.ErrUnexpectedEOF)
}

// A client that does not read its answer is given up.
func TestWriteTimeout(t *testing.T) {
	ended := make(chan error, 1)
	addr := serve(t, httpd.Options{WriteTimeout: 100 * time.Millisecond, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var err error
		for err == nil {
			_, err = w.Write(make([]byte, 64<<10))
		}
		<-r.Context().Done()
		ended <- err
	})})
	nc := dial(t, addr)
	_, err := io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	require.ErrorIs(t, <-ended, os.ErrDeadlineExceeded)
}

// pipes are connections whose writes wait until the other side reads.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if nc, ok := <-p; ok {
		return nc, nil
	}
	return nil, net.ErrClosed
}

func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{} }

// Nobody waits for a client that does not read that it may send its body; and who reads it has all the time that
// the handler gives it.
func TestContinueTimeout(t *testing.T) {
	got := make(chan error)
	s := httpd.New(httpd.Options{HeaderTimeout: 50 * time.Millisecond, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		if err == nil {
			time.Sleep(100 * time.Millisecond)
			_, err = w.Write(make([]byte, 64<<10))
		}
		got <- err
	})})
	l := make(pipes)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	for _, reads := range []bool{false, true} {
		client, server := net.Pipe()
		l <- server
		_, err := io.WriteString(client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
		require.NoError(t, err)
		if !reads {
			require.ErrorIs(t, <-got, os.ErrDeadlineExceeded)
			require.NoError(t, client.Close())
			continue
		}
		text := make([]byte, len("HTTP/1.1 100 Continue\r\n\r\n"))
		_, err = io.ReadFull(client, text)
		require.NoError(t, err)
		require.Equal(t, "HTTP/1.1 100 Continue\r\n\r\n", string(text))
		_, err = io.WriteString(client, "x")
		require.NoError(t, err)
		go func() { _, _ = io.Copy(io.Discard, client) }()
		require.NoError(t, <-got)
		require.NoError(t, client.Close())
	}
	close(l)
	require.Error(t, <-served)
}

// The context of a request ends when the client closes the connection, or its side of it, also if it
// has sent another request, and not when it does not.
func TestContext(t *testing.T) {
	began, ended := make(chan string), make(chan error)
	addr := serve(t, httpd.Options{HeaderTimeout: 20 * time.Millisecond, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		began <- r.URL.Path
		if strings.HasPrefix(r.URL.Path, "/end") {
			<-r.Context().Done()
			ended <- r.Context().Err()
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), 100*time.Millisecond)
		defer cancel()
		<-ctx.Done()
		_, _ = fmt.Fprint(w, ctx.Err())
	})})
	for path, end := range map[string]func(*net.TCPConn) error{
		"/end/close": (*net.TCPConn).Close, "/end/half": (*net.TCPConn).CloseWrite,
		"/end/pipelined": func(nc *net.TCPConn) error {
			_, err := io.WriteString(nc, "GET /2 HTTP/1.1\r\nHost: x\r\n\r\n")
			return errors.Join(err, nc.CloseWrite())
		},
		"/end/reset": func(nc *net.TCPConn) error { return errors.Join(nc.SetLinger(0), nc.Close()) },
	} {
		nc := dial(t, addr)
		_, err := io.WriteString(nc, "POST "+path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab")
		require.NoError(t, err)
		require.Equal(t, path, <-began)
		require.NoError(t, end(nc))
		require.ErrorIs(t, <-ended, context.Canceled)
		if path == "/end/pipelined" {
			require.Equal(t, "/2", <-began) // it is answered all the same
		}
	}
	nc := dial(t, addr)
	br := bufio.NewReader(nc)
	for range 2 { // what watches for the end lets the next request be read
		_, err := io.WriteString(nc, "GET /stay HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		<-began
		require.Equal(t, "200 context deadline exceeded", answered(t, br))
	}
}

// Requests that a client sends without waiting are answered in their order.
func TestPipelining(t *testing.T) {
	addr := serve(t, httpd.Options{MaxHeader: 200, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/7" {
			_ = r.Context().Done() // watches while the buffer is full
		}
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s", r.URL.Path, body)
	})})
	nc := dial(t, addr)
	var text strings.Builder
	for i := range 50 {
		_, _ = fmt.Fprintf(&text, "POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", i, i, strings.Repeat("b", i))
	}
	go func() { _, _ = io.WriteString(nc, text.String()) }()
	br := bufio.NewReader(nc)
	for i := range 50 {
		require.Equal(t, fmt.Sprintf("200 /%d %s", i, strings.Repeat("b", i)), answered(t, br))
	}
}

// Lines reach the client when they are flushed.
func TestStream(t *testing.T) {
	lines := make(chan string)
	addr := serve(t, httpd.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		for line := range lines {
			_, _ = io.WriteString(w, line)
			_ = rc.Flush()
		}
	})})
	nc := dial(t, addr)
	_, err := io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	lines <- "first\n"
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	require.NoError(t, err)
	br := bufio.NewReader(resp.Body)
	for _, line := range []string{"second\n", strings.Repeat("x", 100000) + "\n", "last\n"} {
		got, err := br.ReadString('\n')
		require.NoError(t, err)
		require.NotEmpty(t, got)
		lines <- line
	}
	close(lines)
	rest, err := io.ReadAll(br)
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(string(rest), "last\n"))
}

// No more connections than there may be are accepted, and one that was hijacked is not counted.
func TestConnectionsAreBounded(t *testing.T) {
	addr := serve(t, httpd.Options{MaxConns: 2, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/hijack" {
			echo(w, r)
			return
		}
		nc, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, err = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			t.Cleanup(func() { _ = nc.Close() })
		}
		if err != nil {
			t.Error(err)
		}
	})})
	for range 3 {
		nc := dial(t, addr)
		require.Equal(t, "200 ok", get(t, nc, bufio.NewReader(nc), "/hijack"))
	}
	first, second, third := dial(t, addr), dial(t, addr), dial(t, addr)
	require.Equal(t, "200 /1", get(t, first, bufio.NewReader(first), "/1"))
	require.Equal(t, "200 /2", get(t, second, bufio.NewReader(second), "/2"))
	require.NoError(t, third.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err := io.WriteString(third, "GET /3 HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	_, err = third.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, third.SetReadDeadline(time.Now().Add(20*time.Second)))
	require.NoError(t, first.Close())
	require.Equal(t, "200 /3", answered(t, bufio.NewReader(third)))
}

// Panics are logged with who asked and where, and end the connection.
func TestPanics(t *testing.T) {
	var logged lockedBuffer
	addr := serve(t, httpd.Options{Handler: http.HandlerFunc(plays), Log: slog.New(slog.NewTextHandler(&logged, nil))})
	require.Empty(t, string(exchange(t, addr, "GET /panic HTTP/1.1\r\nHost: x\r\n\r\n")))
	require.Contains(t, logged.String(), `panic="as asked"`)
	require.Contains(t, logged.String(), "httpd_test.plays")
	logged.Reset()
	require.Empty(t, string(exchange(t, addr, "GET /abort HTTP/1.1\r\nHost: x\r\n\r\n")))
	require.Empty(t, logged.String())
	require.NotEmpty(t, string(exchange(t, addr, "GET /after HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")))
	require.Contains(t, logged.String(), "another header")
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

func (b *lockedBuffer) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.Buffer.Reset()
}

// At its end a server answers what was asked, and closes the rest.
func TestShutdown(t *testing.T) {
	labtest.LeakCheck(t)
	began, leave := make(chan struct{}), make(chan struct{})
	addr, s := serveStoppable(t, httpd.Options{HeaderTimeout: time.Hour, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			began <- struct{}{}
			<-leave
		}
		echo(w, r)
	})})
	silent, half, idle, busy := dial(t, addr), dial(t, addr), dial(t, addr), dial(t, addr)
	_, err := io.WriteString(half, "GET / HTTP/1.1\r\nHo")
	require.NoError(t, err)
	require.Equal(t, "200 /", get(t, idle, bufio.NewReader(idle), "/"))
	_, err = io.WriteString(busy, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	<-began
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	s.AwaitRequests(ctx)
	require.Error(t, ctx.Err(), "two have sent none")
	require.ErrorIs(t, s.Shutdown(ctx), context.DeadlineExceeded)
	require.Empty(t, closed(t, silent))
	require.Empty(t, closed(t, half))
	require.Empty(t, closed(t, idle))
	close(leave)
	require.NoError(t, s.Shutdown(t.Context()))
	answer := closed(t, busy)
	require.Contains(t, answer, "\r\nConnection: close\r\n")
	require.True(t, strings.HasSuffix(answer, "/wait"))
	s.AwaitRequests(t.Context())
}

// A handler that does not end is not waited for by Close, but by Shutdown.
func TestClose(t *testing.T) {
	began, leave := make(chan struct{}), make(chan struct{})
	addr, s := serveStoppable(t, httpd.Options{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		began <- struct{}{}
		<-leave
	})})
	nc := dial(t, addr)
	_, err := io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	<-began
	s.Close()
	require.Empty(t, closed(t, nc))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Shutdown(ctx), context.DeadlineExceeded)
	close(leave)
	require.NoError(t, s.Shutdown(t.Context()))
}

// What passes, as the end of descriptors, is waited for; what does not ends Serve.
func TestAcceptFails(t *testing.T) {
	l := &failing{single: single{conns: make(chan net.Conn), done: make(chan struct{})}, errs: []error{
		&net.OpError{Op: "accept", Net: "unix", Err: os.NewSyscallError("accept4", syscall.EMFILE)},
		&net.OpError{Op: "accept", Net: "unix", Err: os.NewSyscallError("accept4", syscall.EBADF)},
	}}
	var logged lockedBuffer
	s := httpd.New(httpd.Options{Handler: http.HandlerFunc(echo), Log: slog.New(slog.NewTextHandler(&logged, nil))})
	require.ErrorIs(t, s.Serve(l), syscall.EBADF)
	require.Contains(t, logged.String(), "too many open files")
	s.Stop()
	require.ErrorIs(t, s.Serve(l), net.ErrClosed)
}

type failing struct {
	single
	errs []error
}

func (f *failing) Accept() (net.Conn, error) {
	err := f.errs[0]
	f.errs = f.errs[1:]
	return nil, err
}

// Two sides at once, with a handler that says so.
func TestFullDuplex(t *testing.T) {
	addr := serve(t, httpd.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			_, _ = io.WriteString(w, strings.ToUpper(lines.Text()))
			_ = rc.Flush()
		}
	})})
	nc := dial(t, addr)
	_, err := io.WriteString(nc, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nabc\n")
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	require.NoError(t, err)
	b := make([]byte, 3)
	_, err = io.ReadFull(resp.Body, b)
	require.NoError(t, err)
	require.Equal(t, "ABC", string(b))
	_, err = io.WriteString(nc, "def\n")
	require.NoError(t, err)
	rest, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "DEF", string(rest))
	require.False(t, resp.Close)
}

// curl, by a unix socket: what is kept open, sent in chunks, and sent when it is asked for.
func TestCurl(t *testing.T) {
	curl := labtest.Tool(t, "curl")
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	s := httpd.New(httpd.Options{Handler: http.HandlerFunc(plays)})
	done := make(chan error)
	go func() { done <- s.Serve(l) }()
	big := filepath.Join(t.TempDir(), "big")
	require.NoError(t, os.WriteFile(big, bytes.Repeat([]byte("b"), 2<<20), 0o600))
	run := func(args ...string) string {
		cmd := exec.Command(curl, append([]string{"-sS", "--max-time", "10", "--unix-socket", path}, args...)...)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	out := run("-v", "http://x/big", "http://x/flush", "http://x/same", "http://x/empty")
	require.Contains(t, out, "Re-using existing connection")
	require.Contains(t, out, "onetwo")
	require.Contains(t, run("-I", "http://x/length"), "Content-Length: 5\r\n")
	require.Equal(t, fmt.Sprintf("%d", 2<<20), run("-o", os.DevNull, "-w", "%{size_upload}", "-T", big, "http://x/unread/all"))
	require.Contains(t, run("-v", "-H", "Expect: 100-continue", "--data-binary", "hello", "http://x/echo"), "100 Continue")
	require.Contains(t, run("-H", "Transfer-Encoding: chunked", "--data-binary", "hello", "http://x/echo"), `chunked=[chunked] close=false body="hello"`)
	require.Contains(t, run("-0", "http://x/big"), "0123456789")
	require.Contains(t, run("--data-binary", "@"+big, "-w", "%{http_code}", "http://x/unread"), "unread")
	require.NoError(t, l.Close())
	require.ErrorIs(t, <-done, net.ErrClosed)
	require.NoError(t, s.Shutdown(t.Context()))
}
