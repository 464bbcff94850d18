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
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/httpd"
)

// serveBoth runs a server of this package and one of net/http, with the same handler.
func serveBoth(t *testing.T, h http.Handler) (ours, theirs string) {
	t.Helper()
	ours = serve(t, httpd.Options{Handler: h})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 4 << 10, ErrorLog: log.New(io.Discard, "", 0), DisableGeneralOptionsHandler: true}
	done := make(chan error)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		require.ErrorIs(t, <-done, http.ErrServerClosed)
	})
	return ours, l.Addr().String()
}

// serve runs a server until the test ends, and returns its address.
func serve(t *testing.T, o httpd.Options) string {
	t.Helper()
	addr, _ := serveStoppable(t, o)
	return addr
}

func serveStoppable(t *testing.T, o httpd.Options) (string, *httpd.Server) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := httpd.New(o)
	done := make(chan error)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		require.ErrorIs(t, <-done, net.ErrClosed)
		s.Close()
		require.NoError(t, s.Shutdown(context.Background()))
	})
	return l.Addr().String(), s
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = nc.Close() })
	require.NoError(t, nc.SetDeadline(time.Now().Add(20*time.Second)))
	tcp, ok := nc.(*net.TCPConn)
	require.True(t, ok)
	return tcp
}

// plays answers requests in the ways in which handlers do. It writes what a request was.
func plays(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	switch r.URL.Path {
	case "/big":
		for range 1000 {
			_, _ = io.WriteString(w, "0123456789")
		}
	case "/limit":
		_, _ = w.Write(bytes.Repeat([]byte("x"), 2<<10))
	case "/above":
		_, _ = w.Write(bytes.Repeat([]byte("x"), 2<<10+1))
	case "/flush":
		w.Header().Set("X-A", "before")
		_, _ = io.WriteString(w, "one")
		_ = rc.Flush()
		w.Header().Set("X-B", "too late")
		_, _ = io.WriteString(w, "two")
	case "/length":
		w.Header().Set("Content-Length", "5")
		_, _ = io.WriteString(w, "12345")
		_, err := io.WriteString(w, "6")
		if !errors.Is(err, http.ErrContentLength) {
			panic(err)
		}
	case "/short":
		w.Header().Set("Content-Length", "5")
		_, _ = io.WriteString(w, "123")
	case "/none":
		w.Header().Set("Content-Length", "5")
		w.Header().Set("X-A", "a")
		w.WriteHeader(http.StatusNoContent)
		if _, err := io.WriteString(w, "x"); !errors.Is(err, http.ErrBodyNotAllowed) {
			panic(err)
		}
	case "/same":
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Etag", `"x"`)
		w.WriteHeader(http.StatusNotModified)
	case "/empty":
	case "/after":
		w.Header().Set("X-A", "a")
		w.WriteHeader(http.StatusTeapot)
		w.Header().Set("X-A", "b")
		w.WriteHeader(http.StatusOK)
		_, _ = io.WriteString(w, "tea")
	case "/html":
		_, _ = io.WriteString(w, "<html><body>")
	case "/type":
		w.Header().Set("Content-Type", "a/b")
		w.Header().Set("Date", "x")
		w.Header()["X-Many"] = []string{"1", "2\r\nInjected: 3"}
		_, _ = io.WriteString(w, "<html>")
	case "/encoded":
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = io.WriteString(w, "<html>")
	case "/close":
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, "bye")
	case "/early":
		w.Header().Set("Link", "</x>")
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, "late")
	case "/odd":
		w.WriteHeader(599)
	case "/panic":
		panic("as asked")
	case "/abort":
		_, _ = io.WriteString(w, "part")
		panic(http.ErrAbortHandler)
	case "/hijack":
		nc, rw, err := rc.Hijack()
		if err != nil {
			panic(err)
		}
		line, _ := rw.ReadString('\n')
		_, _ = fmt.Fprintf(rw, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(line), line)
		_ = rw.Flush()
		_ = nc.Close()
	case "/error":
		http.Error(w, "no", http.StatusBadRequest)
	case "/unread":
		_, _ = io.WriteString(w, "unread")
	case "/some":
		b := make([]byte, 2)
		_, err := io.ReadFull(r.Body, b)
		_, _ = fmt.Fprintf(w, "%s %v", b, err)
	case "/closed":
		_ = r.Body.Close()
		_, err := r.Body.Read(make([]byte, 1))
		_, _ = fmt.Fprint(w, err)
	default:
		body, err := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s %s host=%q length=%d chunked=%v close=%v body=%q err=%v\n", r.Method, r.RequestURI, r.Proto, r.Host, r.ContentLength, r.TransferEncoding, r.Close, body, err)
		_ = r.Header.Write(w)
	}
}

// exchange sends text and returns what comes until the server closes.
func exchange(t *testing.T, addr, text string) []byte {
	t.Helper()
	nc := dial(t, addr)
	go func() { _, _ = io.WriteString(nc, text) }()
	b, err := io.ReadAll(nc)
	if err != nil { // with more unread than a server takes
		require.ErrorContains(t, err, "reset by peer")
	}
	return b
}

// answers parses all answers, for requests of these methods, into what can be compared.
func answers(t *testing.T, raw []byte, methods []string) []string {
	t.Helper()
	var all []string
	br := bufio.NewReader(bytes.NewReader(raw))
	for i := 0; ; {
		if _, err := br.Peek(1); err != nil {
			return all
		}
		method := "GET"
		if i < len(methods) {
			method = methods[i]
		}
		resp, err := http.ReadResponse(br, &http.Request{Method: method})
		require.NoError(t, err, "%s", raw)
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode >= 200 {
			i++
		}
		if date := resp.Header.Get("Date"); date != "x" && resp.StatusCode >= 200 && date != "" {
			_, err := http.ParseTime(date)
			require.NoError(t, err)
			resp.Header.Set("Date", "now")
		}
		resp.Header.Del("Connection") // as Close
		var header strings.Builder
		require.NoError(t, resp.Header.Write(&header))
		all = append(all, fmt.Sprintf("%s %s length=%d chunked=%v close=%v\n%s\n%q %v",
			resp.Proto, resp.Status, resp.ContentLength, resp.TransferEncoding, resp.Close, header.String(), body, err))
	}
}

// methods of the requests of a text, as its lines show them.
func methodsOf(text string) (methods []string) {
	for line := range strings.Lines(text) {
		if method, _, ok := strings.Cut(line, " "); ok && strings.Contains(line, " HTTP/1.") {
			methods = append(methods, method)
		}
	}
	return methods
}

const last = "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

// What a client sees is the same as of the server of net/http.
func TestOracle(t *testing.T) {
	ours, theirs := serveBoth(t, http.HandlerFunc(plays))
	var texts []string
	for path := range strings.FieldsSeq("big limit above flush length short none same empty after html type encoded close early odd panic abort error unread some closed echo") {
		for _, method := range []string{"GET", "HEAD"} {
			texts = append(texts,
				method+" /"+path+" HTTP/1.1\r\nHost: x\r\n\r\n"+last,
				method+" /"+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"+last,
				method+" /"+path+" HTTP/1.0\r\n\r\n"+last,
				method+" /"+path+" HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"+last)
		}
		for _, body := range []string{
			"Content-Length: 5\r\n\r\n12345", "Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n",
			"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n12345",
			"Content-Length: 100000\r\n\r\n" + strings.Repeat("b", 100000),
			"Content-Length: 300000\r\n\r\n" + strings.Repeat("b", 300000),
			"Transfer-Encoding: chunked\r\n\r\n5;x=y\r\n12345\r\n0\r\nT: 1\r\n\r\n",
			"Transfer-Encoding: chunked\r\n\r\nz\r\n",
		} {
			texts = append(texts, "POST /"+path+" HTTP/1.1\r\nHost: x\r\n"+body+last)
		}
	}
	texts = append(texts,
		"GET http://y/z HTTP/1.1\r\nHost: x\r\n\r\n"+last,
		"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"+last,
		"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n"+last,
		"GET /a%20b?c=%zz HTTP/1.1\r\nHost: x\r\nA:b\r\nA: \tc \r\nb-c: \xff\r\n\r\n"+last,
		"GET / HTTP/1.1\nHost: x\n\n"+last,
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na\r\n"+last,
		"PUT /empty HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"+last,
		"GET / HTTP/1.1\r\nHost:\r\n\r\n"+last,
		"GET /hijack HTTP/1.1\r\nHost: x\r\n\r\nover\nmore",
		// refused:
		"GET / HTTP/1.1\r\n\r\n"+last,
		"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"+last,
		"GET / HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n"+last,
		"GET / HTTP/2.0\r\nHost: x\r\n\r\n"+last,
		"GET / HTTP/1.1\r\nHost: x\r\nA: "+strings.Repeat("a", 20000)+"\r\n\r\n",
	)
	for _, text := range texts {
		methods := methodsOf(text)
		require.Equal(t, answers(t, exchange(t, theirs, text), methods), answers(t, exchange(t, ours, text), methods), "%.300q", text)
	}
}

// What net/http refuses is refused, and so is what it takes although others may read it otherwise.
func TestRefused(t *testing.T) {
	ours, theirs := serveBoth(t, http.HandlerFunc(plays))
	for _, x := range []struct {
		status int
		also   bool // by net/http
		text   string
	}{
		{400, true, "x\r\n\r\n"},
		{400, true, "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"},
		{400, true, "GET /\r\n\r\n"},
		{400, true, "GET  / HTTP/1.1\r\nHost: x\r\n\r\n"},
		{400, true, "GET / HTTP/1.1 \r\nHost: x\r\n\r\n"},
		{400, true, "GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n"},
		{400, true, "GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n"},
		{400, true, "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"},
		{400, true, "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"},
		{400, true, "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n"},
		{400, true, "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\n"},
		{400, true, "GET / HTTP/1.1\r\nHost: x\r\nContent-Length : 1\r\n\r\n"},
		{400, true, "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n"},
		{400, true, "GET / HTTP/1.1\r\nHost: x\r\n: x\r\n\r\n"},
		{400, true, "GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n"},
		{400, true, "GET / HTTP/1.1\r\n Host: x\r\n\r\n"},
		{400, true, "GET / HTTP/1.1\r\nHost: x\r\nA: b\rC: d\r\n\r\n"},
		{400, true, "GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n"},
		{501, true, "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n"},
		{501, true, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n"},
		{501, true, "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n"},
		{417, true, "GET / HTTP/1.1\r\nHost: x\r\nExpect: more\r\n\r\n"},
		{505, true, "GET / HTTP/0.9\r\nHost: x\r\n\r\n"},
		{505, true, "GET / HTTP/3.0\r\nHost: x\r\n\r\n"},

		{505, false, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
		{400, false, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{400, false, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"},
		{400, false, "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{400, false, "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n"},
		{400, false, "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n folded\r\n\r\n"},
		{400, false, "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n\tTransfer-Encoding: chunked\r\n\r\n"},
	} {
		for i, addr := range []string{ours, theirs} {
			got := answers(t, exchange(t, addr, x.text+last), []string{"GET"})
			require.NotEmpty(t, got, x.text)
			refused := strings.HasPrefix(got[0], fmt.Sprintf("HTTP/1.1 %d ", x.status))
			require.Equal(t, i == 0 || x.also, refused, "%q: %s", x.text, got)
			if refused {
				require.Len(t, got, 1, "%q: a request after what was refused was answered", x.text)
				require.Contains(t, got[0], "close=true")
			}
		}
	}
}

// FuzzRequests sends the same bytes to both servers: what the handler of ours gets, it gets of net/http
// too, in the same order and with the same bodies. So there is nothing that a proxy may read in one
// way and ours in another, if it does not read it otherwise than net/http.
func FuzzRequests(f *testing.F) {
	for _, text := range []string{
		last, "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" + last,
		"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + last,
		"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + last,
		"GET / HTTP/1.0\nA: b\n c\n\n", "GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na\r\n\r\n" + last,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		ours := requestsOf(func(l net.Listener, h http.Handler) { _ = httpd.New(httpd.Options{Handler: h}).Serve(l) }, raw)
		theirs := requestsOf(func(l net.Listener, h http.Handler) {
			s := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0), DisableGeneralOptionsHandler: true, ReadHeaderTimeout: time.Minute}
			_ = s.Serve(l)
		}, raw)
		require.LessOrEqual(t, len(ours), len(theirs))
		for i := range ours {
			require.Equal(t, theirs[i], ours[i])
		}
	})
}

// requestsOf returns what a handler gets of a client that sends raw, and closes.
func requestsOf(serve func(net.Listener, http.Handler), raw []byte) (requests []string) {
	conn := &script{in: bytes.NewReader(raw), closed: make(chan struct{})}
	l := &single{conns: make(chan net.Conn, 1), done: make(chan struct{})}
	l.conns <- conn
	served := make(chan struct{})
	go func() {
		defer close(served)
		serve(l, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			requests = append(requests, fmt.Sprintf("%s %s %s %q %q", r.Method, r.RequestURI, r.Host, body, r.Header))
		}))
	}()
	<-conn.closed
	_ = l.Close()
	<-served
	return requests
}

// script is a connection of which all that will come is known.
type script struct {
	net.Conn
	in     *bytes.Reader
	once   sync.Once
	closed chan struct{}
}

func (s *script) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *script) Read(p []byte) (int, error)       { return s.in.Read(p) }
func (s *script) Write(p []byte) (int, error)      { return len(p), nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }
func (s *script) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (s *script) LocalAddr() net.Addr              { return &net.UnixAddr{} }

// single is a listener of connections that are there already.
type single struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *single) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *single) Close() error {
	select {
	case <-l.done:
	default:
		close(l.done)
	}
	return nil
}

func (l *single) Addr() net.Addr { return &net.UnixAddr{} }
