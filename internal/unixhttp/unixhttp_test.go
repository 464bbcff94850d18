// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package unixhttp

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// pair is a client's connection, and a server that is given the request and writes an answer.
func pair(t *testing.T, answer func(nc net.Conn, r *http.Request)) net.Conn {
	t.Helper()
	client, server := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = server.Close() }()
		r, err := http.ReadRequest(bufio.NewReader(server))
		if err == nil {
			answer(server, r)
		}
	}()
	t.Cleanup(func() { _ = client.Close(); <-done })
	return client
}

// What is asked comes to the server as it is, and what that answers comes back.
func TestDo(t *testing.T) {
	for _, doc := range []string{"", `{"a":1}`} {
		nc := pair(t, func(nc net.Conn, r *http.Request) {
			text, err := io.ReadAll(r.Body)
			if err != nil || string(text) != doc || r.Header.Get("Content-Type") != map[string]string{`{"a":1}`: "application/json"}[doc] || !r.Close {
				return
			}
			_, _ = io.WriteString(nc, "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n"+r.Method[:1]+r.URL.Path[:3]+"\r\n"+"0\r\n\r\n")
		})
		var sent []byte
		if doc != "" {
			sent = []byte(doc)
		}
		resp, err := Do(t.Context(), nc, http.MethodPost, "/v1/x?y", sent)
		require.NoError(t, err)
		require.Equal(t, http.StatusNotFound, resp.StatusCode)
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, "P/v1", string(text))
		require.NoError(t, resp.Body.Close())
		_, err = nc.Write([]byte{0})
		require.ErrorIs(t, err, io.ErrClosedPipe, "the connection has ended")
	}
}

// A server that says nothing, or stops within a body, is given up with the context.
func TestDone(t *testing.T) {
	for _, begin := range []string{"", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\na"} {
		ctx, cancel := context.WithCancel(t.Context())
		nc := pair(t, func(nc net.Conn, _ *http.Request) {
			_, _ = io.WriteString(nc, begin)
			cancel()
			_, _ = nc.Read(make([]byte, 1)) // until the client has gone
		})
		resp, err := Do(ctx, nc, http.MethodGet, "/", nil)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			require.NoError(t, resp.Body.Close())
		}
		require.ErrorIs(t, err, context.Canceled, "%q", begin)
		_, err = nc.Write([]byte{0})
		require.Error(t, err, "the connection has ended")
	}
}

// A server that closes is an end, and what is no answer is an error.
func TestNoAnswer(t *testing.T) {
	for text, want := range map[string]string{"": "EOF", "x\r\n\r\n": "malformed HTTP response"} {
		nc := pair(t, func(nc net.Conn, _ *http.Request) { _, _ = io.WriteString(nc, text) })
		_, err := Do(t.Context(), nc, http.MethodGet, "/", nil)
		require.ErrorContains(t, err, want)
	}
}
