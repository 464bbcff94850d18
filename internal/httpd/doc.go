// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package httpd serves HTTP/1.1 to a handler of net/http, without TLS. The server of net/http
// brings a megabyte of TLS into every program, whether it is used or not.
//
// A handler gets what net/http gives it, except trailers, http.ServerContextKey and
// http.CloseNotifier; a Transfer-Encoding that it sets is left out, and http.MaxBytesReader ends no
// connection by itself. Requests are parsed by net/http. What may be read in two ways is refused
// before that (see check in header.go).
package httpd
