// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package unixhttp asks a server of HTTP/1.1 one thing over one connection, as clients of a Unix
// socket do.
//
// The requests are written here, and not by http.Client, with which a program has a megabyte of TLS
// and of names in other scripts: a request has a line, some fields and a document, and needs a
// connection of its own. If the server closed an idle one while a request is being sent, it would be
// unknown whether the request was carried out.
package unixhttp
