// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"io"
	"net/http"
	"net/netip"

	"github.com/nftnat/nftnat/internal/httpd"
)

// EchoHTTP starts an HTTP/1.1 server on a TCP address inside ns. It answers
// every request with the line "NAME PEER".
func EchoHTTP(ns *NS, name, addr string) (*Server, error) {
	l, err := ns.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &Server{addr: addrPort(l.Addr())}
	h := httpd.New(httpd.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, whoami(name, peer))
	})})
	s.stop = func() error {
		h.Close()
		return l.Close()
	}
	s.wg.Go(func() {
		_ = h.Serve(l) // until it is closed
		_ = h.Shutdown(context.Background())
	})
	return s, nil
}
