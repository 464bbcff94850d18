// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package handover is how one daemon hands its sockets to its successor: messages with
// descriptors (SCM_RIGHTS, unix(7)) over a connected unix socket.
//
// The one that gives keeps everything until the very last word of the one that takes.
// Whoever of the two ends before leaves the other with all that is needed to go on:
//
//	taker            giver
//	Begin      ->          asks for it, with the version that it speaks
//	           <-  Lend    sockets, as many messages as they take
//	           <-  All     that was the last of them
//	Ready      ->          it could serve now
//	           <-  Yours   from here on the taker may change things
//	Done       ->          its proxies serve
//	           <-  Left    the giver's do not any more
//
// Each may say No, with a reason, instead of what is its turn, the giver until it has said
// Yours. A giver whose taker says No or ends before it says Done goes on as before. A taker
// whose giver ends, without a No, after it has lent all, has the sockets, and goes on.
//
// # Concurrency
//
// A [Conn] is for one goroutine. [Conn.Close] and [Conn.Interrupt] may be called from
// another one.
//
// # Be aware
//
//   - What a socket is bound to, its queue, options and filters are one for all who have
//     it. Whoever gives one up closes it and does nothing else with it.
//   - As many descriptors can be on their way as a process may have open (RLIMIT_NOFILE of
//     the sender), unless it has CAP_SYS_RESOURCE.
package handover
