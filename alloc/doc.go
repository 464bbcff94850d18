// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package alloc hands out the two things a host that publishes ports runs out
// of: addresses of a prefix ([Addrs]) and ports of one protocol ([Ports]).
//
// Both are lazy and cyclic. Nothing is generated ahead: memory follows what is
// in use, so that an empty 10.0.0.0/8 and an empty ::/0 cost a few hundred
// bytes. And both go forward: the next one handed out is the first free one
// after the last one handed out, wrapping round at the end, so that what was
// released rests for as long as the range allows before somebody else gets it.
//
// Both are bookkeeping and nothing else: they ask neither the kernel nor the
// network, start no goroutines, keep no clock and write no files. Whoever needs
// them to survive a restart reserves again what is still in use; for the order
// of addresses [Addrs.SetCursor] restores the rest.
//
// # Concurrency
//
// All methods of [Addrs] and [Ports] may be called from any number of
// goroutines at once. Each call is one critical section of one mutex, so that
// no two callers are ever given the same thing. The iterator of [Addrs.Leases]
// takes the mutex for each step and not for the whole walk: the loop's body may
// call any method.
//
// # Be aware
//
//   - A lease has no holder and no expiry here. Who holds what, and for how
//     long, is the caller's knowledge; [Addrs.Release] and [Ports.Release]
//     believe whoever calls them.
//   - The order of ports is not kept over a restart: [Ports] begins again at the
//     start of its dynamic range.
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
