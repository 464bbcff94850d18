// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package engine publishes ports: it owns one nftables table, and what arrives at a
// frontend of this host goes to the backend that the table holds for it.
//
// An [Engine] is opened on a table, adopts what the table holds, and publishes and
// unpublishes mappings:
//
//	e, err := engine.Open(ctx, engine.Options{})
//	...
//	m, err := nat.ParseMapping("tcp", "8080", "172.17.0.2:80")
//	...
//	done, err := e.Publish(ctx, nat.PublishOptions{}, m)
//
// # Guarantees
//
// The kernel is the record. Every mapping is an element of a map in the table, with its
// owner's name as the comment, readable with nft(8). When Publish has returned, the
// mapping outlives the process, and the next engine adopts it. With [Options.Store] the
// state is also kept elsewhere, such as in a file, from which Open restores what a
// reboot has taken.
//
// All or nothing. A call publishes all of its mappings or none, in one transaction of
// the kernel. If a later step fails, what was done is undone.
//
// One owner. An engine holds an abstract unix socket named after its table; a second
// one gets an [OwnedError] that names the holder. The lock ends with the process.
//
// The cost does not grow with the number of mappings. The rules are static; see [Plan].
//
// # Order
//
// Publish validates, reserves the ports, holds each of them with a socket against other
// processes, turns on IP forwarding if it is off, commits one transaction, saves the
// state if there is a store, deletes the UDP flows that contradict the change, and opens
// the proxies. An error at any step undoes those before it.
//
// # What stays
//
// Close leaves the table and its mappings at work. Purge removes the table. IP
// forwarding, once turned on, stays on, because other programs may rely on it by then.
// The hairpin mode of a bridge port is put back with the last mapping to the backends
// behind it.
//
// # Changes by others
//
// Where the kernel can do it (Linux 6.9), the table is owned by the engine: other
// programs can read it and not change it. Elsewhere, and with [Options.NoOwner], which leaves the
// table open, any program with CAP_NET_ADMIN can change it. While Run runs, the engine
// notices at once; otherwise at the next call that changes something. It repairs damage,
// such as a missing table, rule or record, and follows mappings that were added or deleted.
//
// # Be aware
//
//   - Clients on 127.0.0.0/8 and ::1, and those of the other address family than the
//     backend's, are served by proxies in this process, as long as the engine is open:
//     netfilter cannot translate what they send. Their backend sees this host as its
//     client.
//   - If another table drops forwarded packets, it drops those of published ports too:
//     an accept in one table does not undo a drop in another.
//   - A published port costs a descriptor. RLIMIT_NOFILE is the caller's business.
package engine
