// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package api serves an engine over HTTP on a unix socket. The daemon has the [Server],
// on a socket of [Listen]; commands and other programs use the [Client].
//
// It also holds the JSON documents, such as [Mapping]: the server sends what
// `nftnat ls --json` prints. Their fields are a contract. docs/openapi.yaml describes the
// routes and the documents.
//
// # Who may use it
//
// [Listen] creates the socket with mode 0660 in a directory of mode 0750. In addition, the
// server asks the kernel who has connected (SO_PEERCRED, unix(7)), and serves root, its own
// user and members of the socket file's group. All others get a problem document. There
// are no further distinctions: a client may do everything, except that only root and the
// server's own user may ask for a handover.
//
// By a handover (POST /v1/handover), a server of another process takes over the listener,
// and no client is refused: see [Server.ServeUntil], [Lend] and [Inherit].
//
// # Errors
//
// Every refusal is a problem document (RFC 9457), which a [Client] returns as a [*Problem].
// It has the text of the engine's error, and errors.Is finds the same errors in it. Where the
// document has the details, errors.As finds the same [*nat.ConflictError], [*nat.TakenError]
// or [*nat.HeldError].
//
// # Limits
//
// A server has at most 256 connections at once, 128 of them streams of events; further
// clients wait in the listener's queue until a connection ends. A connection ends after
// 60 s without a request. A header may take 5 s and 8 KiB. A body may take 10 s, and 1 MiB,
// or 16 MiB in a PUT, of which at most four are read at a time. A request may have about
// 262,144 ports, 65,536 endpoints and 4,096 networks; a range whose ports stay the same counts
// as 256 ports at most. Unknown fields, repeated fields and
// anything after the document are refused before anything is changed.
//
// # Concurrency
//
// Servers and clients may be used from any number of goroutines. A server has
// a goroutine for each connection, and [Server.Serve] waits for them before it
// returns. A client keeps no connection and has no goroutines between calls.
//
// # Be aware
//
//   - A server needs Linux; a client does not.
//   - What is refused before a handler sees it (a malformed request line, a late
//     header, header fields that are too large) is answered in plain text.
//   - A change that the engine has begun goes on when its client closes the connection.
//     A client that did not wait for the answer does not know whether it succeeded.
//   - A range is an item for each of its ports in answers, unless the request has the
//     parameter "ranges". The client asks so.
package api
