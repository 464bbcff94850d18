#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Go 1.26.8, package net/http
# Expected: a program that serves HTTP without TLS or HTTP/2 (tag nethttpomithttp2), and has no client, is linked without the handshakes of TLS
# Happens: the client's handshake is linked, the server's is not: each connection of http.Server may become a TLS connection of its own, which tls.Client makes
#
# Seen: clientHandshake is reached from net/http.(*conn).maybeServeUnencryptedHTTP2, serverHandshake is not in the program.
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/main.go" <<-'END'
		package main

		import (
			"net"
			"net/http"
		)

		func main() {
			l, _ := net.Listen("unix", "@finding")
			_ = (&http.Server{}).Serve(l)
		}
	END
	(cd "$DIR" && go mod init finding 2>/dev/null && CGO_ENABLED=0 go build -tags nethttpomithttp2 -ldflags=-dumpdep -o main . 2>dep) || exit 3
	go version >"$DIR/version"
	(cd "$DIR" && go tool nm main >symbols)
}

show() {
	cat "$DIR/version"
	expect 'the client' 'crypto/tls.(*Conn).clientHandshake' "$(grep -o 'crypto/tls.(\*Conn).clientHandshake$' "$DIR/symbols")"
	expect_not 'the server' 'serverHandshake' "$(grep -o 'crypto/tls.(\*Conn).serverHandshake$' "$DIR/symbols" || true)"
	expect 'by which' 'clientHandshake' "$(grep -E '^net/http\..* -> crypto/tls\.(Client|\(\*Conn\)\.clientHandshake)' "$DIR/dep" || true)"
}

run
