// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package httpd_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/httpd"
)

// Requests one after another, over a unix socket, by a client that costs little: of our server and
// that of net/http.
func BenchmarkServer(b *testing.B) {
	document := []byte(`{"proto":"tcp","host":"","port":8080,"backend":"172.17.0.2:80","name":"web","proxy":true}` + "\n")
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(document)
	})
	for name, serve := range map[string]func(net.Listener) error{
		"httpd":    httpd.New(httpd.Options{Handler: h}).Serve,
		"net-http": (&http.Server{Handler: h}).Serve, //nolint:gosec // no limits, which cost time
	} {
		for kind, request := range map[string]string{
			"get":  "GET /v1/mappings?ranges HTTP/1.1\r\nHost: nftnat\r\n\r\n",
			"post": "POST /v1/mappings?ranges HTTP/1.1\r\nHost: nftnat\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\nabcde",
		} {
			for _, keep := range []string{"kept", "new"} {
				b.Run(kind+"/"+keep+"/"+name, func(b *testing.B) {
					path := filepath.Join(b.TempDir(), "s")
					l, err := net.Listen("unix", path)
					require.NoError(b, err)
					go func() { _ = serve(l) }()
					defer func() { _ = l.Close() }()
					var nc net.Conn
					br := bufio.NewReader(nil)
					text, discarded := []byte(request), 0
					b.ReportAllocs()
					for b.Loop() {
						if nc == nil {
							nc, err = net.Dial("unix", path)
							require.NoError(b, err)
							br.Reset(nc)
						}
						if _, err := nc.Write(text); err != nil {
							b.Fatal(err)
						}
						for { // the header, and the document behind it
							line, err := br.ReadSlice('\n')
							if err != nil {
								b.Fatal(err)
							}
							if len(line) == 2 {
								break
							}
						}
						n, err := br.Discard(len(document))
						if err != nil {
							b.Fatal(err)
						}
						discarded += n
						if keep == "new" {
							_ = nc.Close()
							nc = nil
						}
					}
					if nc != nil {
						_ = nc.Close()
					}
				})
			}
		}
	}
}
