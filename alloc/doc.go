// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package alloc hands out the two things a host that publishes ports runs out
// of: addresses of a prefix ([Addrs]) and ports of one protocol ([Ports]).
//
// Both are lazy: memory follows what is in use, so that an empty 10.0.0.0/8 and
// an empty ::/0 cost a few hundred bytes. And both are cyclic: they hand out the
// first free one after the last one handed out, wrapping round, so that an
// address or port is reused as late as possible after its release.
//
// They only keep books: they ask neither the kernel nor the network, start no
// goroutines, read no clock and write no files. To go on after a restart, reserve
// again what is in use and restore the order of addresses by [Addrs.SetCursor].
//
// # Concurrency
//
// All methods of [Addrs] and [Ports] are safe for concurrent use. Each call is
// one critical section of one mutex. The iterator of [Addrs.Leases] takes the
// mutex for each step: the loop's body may call any method.
//
// # Be aware
//
//   - A lease has no owner and no expiry here: [Addrs.Release] and
//     [Ports.Release] do not check who calls them.
//   - After a restart [Ports] begins at the start of its dynamic range.
//   - Addresses with a zone are refused, but for the stand-in [IPv6Only] in
//     [Ports]. A zone is meaningful on one host only (RFC 4007 section 6).
//   - IPv4-mapped IPv6 addresses (::ffff:192.0.2.1, RFC 4291 section 2.5.5.2)
//     are IPv4 addresses to both types. An IPv6 pool that surrounds
//     ::ffff:0:0/96 never hands those out.
//   - Of the anycast addresses an IPv6 subnet may have, only that of the subnet
//     routers is withheld by itself. Where those of RFC 2526 (the last 128 of a
//     /64) are in use, start from a narrower prefix or reserve them.
//   - [Ports] knows no protocol. Use one for TCP and another one for UDP.
package alloc
