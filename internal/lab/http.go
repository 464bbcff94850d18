// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"io"
	"net"
	"net/http"
	"net/netip"
)

// EchoHTTP starts an HTTP/1.1 server on a TCP address inside ns. It answers
// every request with the line "NAME PEER".
func EchoHTTP(ns *NS, name, addr string) (*Server, error) {
	l, err := ns.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &Server{addr: addrPort(l.Addr())}
	h := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			peer, err := netip.ParseAddrPort(r.RemoteAddr)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			_, _ = io.WriteString(w, whoami(name, peer))
		}),
		// Close does not wait for the goroutines of connections. Their states show when
		// they begin and end.
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				s.wg.Add(1)
			case http.StateClosed, http.StateHijacked:
				s.wg.Done()
			case http.StateActive, http.StateIdle:
			}
		},
	}
	s.stop = h.Close
	s.wg.Go(func() { _ = h.Serve(l) })
	return s, nil
}
