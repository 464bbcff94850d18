// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package api is nftnat over HTTP on a unix socket: the daemon's side, a [Server]
// on a socket of [Listen], and the command line's side, a [Client].
//
// It also holds the JSON documents in which nftnat tells of itself, such as
// [Mapping]: what the server sends is what `nftnat ls --json` prints. Their fields
// are a contract with their readers. docs/openapi.yaml describes all of it.
//
// # Who may use it
//
// The socket is created with mode 0660 in a directory of mode 0750. Whoever gets
// past that is looked at once more: the kernel says whose a connection is
// (SO_PEERCRED, unix(7)), and those of root, of the server's own user and of members
// of the socket file's group are served. All others get a problem document.
// Everybody who is let in may do everything.
//
// A server can be succeeded by that of another process on the same listener, with nobody
// refused ([Server.ServeUntil], [Lend], [Inherit]); who asks for that, by POST
// /v1/handover, has to be root or of the server's own user.
//
// # Errors
//
// Every refusal is a problem document (RFC 9457). A [Client] returns it as a
// [*Problem], which is by errors.Is what the error was on the other side and has the
// same text: whoever calls an engine through a server branches on the same errors
// and prints the same lines as without. By errors.As it is the same
// [*nat.ConflictError] or [*nat.TakenError].
//
// # Limits
//
// A server has at most 256 requests under way, and at most 1,024 connections besides.
// When there is another one, the process that has most gives way if that is more than
// 32, then whoever has been silent, sending a request or reading an answer for longest:
// clients that are slow, many or do nothing cannot keep the others out. A request that
// finds no place within a second is told to come again ([ErrBusy]). Bodies of more than
// 32 KiB are decoded one at a time. A request's header may take 5 s and 8 KiB,
// its body 10 s and 1 MiB, or 16 MiB where everything there is to publish is given
// at once, and be about 262,144 ports, 65,536 endpoints and 4,096 networks. Bodies are
// read strictly: what is not known, said twice or left over is refused before anything
// is done.
//
// # Concurrency
//
// Servers, clients and feeds may be used from any number of goroutines. A server has
// a goroutine for each connection, and [Server.Serve] waits for them before it
// returns. A client keeps no connection and has no goroutines between calls.
//
// # Be aware
//
//   - Linux only.
//   - What net/http refuses before a handler sees it (a malformed request line,
//     header fields that are too large) is answered in plain text.
//   - A change that has been handed to the engine goes on when its client goes away.
//     A client that did not wait for the answer has to look what is published.
//   - A large array of mappings is one answer, held in memory while it is written.
package api
