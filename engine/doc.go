// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package engine publishes ports: it owns one nftables table, and what arrives at a
// frontend of this host goes to the backend that the table holds for it.
//
// An [Engine] is opened on a table, adopts what the table holds, and publishes and
// unpublishes mappings:
//
//	e, err := engine.Open(engine.Options{})
//	...
//	m, err := engine.NewMapping("tcp", "8080", "172.17.0.2:80")
//	...
//	done, err := e.Publish(m)
//
// # What it guarantees
//
// The kernel is the record. Every mapping is an element of a map in the table, with
// its owner's name as the comment, readable with nft(8). There is no other store:
// when Publish has returned, the mapping outlives the process, and the next engine
// adopts it.
//
// All or nothing. A call publishes all of its mappings or none, in one transaction
// of the kernel. If a step after that fails, what was done is undone.
//
// One owner. An engine holds an abstract unix socket named after its table; a second
// one is told who has it. The lock ends with the process.
//
// The cost does not grow. The rules are static; see [Plan].
//
// # Order
//
// Publish validates, reserves the ports, binds a socket to each that holds it against
// other processes, turns on IP forwarding if nobody has, commits one transaction,
// deletes the UDP flows that contradict it, and opens the proxies. Errors at any step
// undo those before it.
//
// # What stays
//
// Close leaves the table and its mappings at work. Purge removes the table. IP
// forwarding, once turned on, stays on, because others may rely on it by then. The
// hairpin mode of bridge ports that published backends are behind is put back with the
// last mapping to them.
//
// # Be aware
//
//   - Clients on 127.0.0.0/8 and ::1, and of the other family than the backend's, are
//     served by userland proxies, as long as the engine is open: netfilter cannot
//     translate what they send. Their backend sees this host as its client.
//   - Another table that drops forwarded packets drops those of published ports too:
//     accept in one table does not undo drop in another.
//   - A published port costs a descriptor. RLIMIT_NOFILE is the caller's business.
//   - Whoever has CAP_NET_ADMIN can change the table behind the engine's back. What
//     it finds changed, it takes as it is.
package engine
