// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package proxy carries TCP connections and UDP datagrams from a frontend to a
// backend in user space. It serves what netfilter cannot DNAT: what a host
// sends to its own 127.0.0.1 or ::1, and clients of one address family whose
// backend is of the other.
//
// A [Proxy] has two moments. [New], or [Bind] and then [Socket.Proxy], takes
// the port: from then on no other process gets it, and nobody gets an answer.
// [Proxy.Open], or [Proxy.Run], which also waits, lets traffic in. Between the
// two a caller can prepare everything else that makes a port reachable. A client
// that comes early is not refused: over TCP its SYN is dropped, it sends it again
// after a second, and is served. A UDP datagram that comes early is lost, as one
// can be anywhere on its way, without an error for the client, whose next one is
// served: a port may be held for days, and a datagram that old is worth nothing.
// [Socket.Refuse] is for a
// port that is to be held and not served.
//
// It ends in one of three ways: [Proxy.Close] resets its connections,
// [Proxy.Shutdown] waits for them, and [Proxy.Retire] gives the port back and
// leaves them to end by themselves.
//
// # TCP
//
// Each direction ends on its own: FIN is passed on as FIN and RST as RST. A
// client whose backend cannot be reached within [Options.DialTimeout] is reset.
// Bulk data go from socket to socket by splice(2); messages of up to 32 KiB are
// copied, which costs less. There is no idle time-out unless asked for; TCP's
// own keep-alive finds dead peers. Running out of descriptors or memory stops
// accepting for at most a second at a time and never ends a proxy.
//
// # UDP
//
// A flow is one client's address and the local address that it asked: it has a
// socket of its own to the backend, and its answers come from the address that
// was asked. It ends when neither side sent anything for
// [Options.IdleTimeout]. There are at most [Options.MaxFlows], the flow silent
// longest making room for a new one. Errors that the backend's host reports by
// ICMP end nothing, and lose no datagram but the one that caused them.
// Datagrams are read and written many at a time, and runs of equal ones leave
// as one by UDP_SEGMENT where the kernel has it.
//
// # Concurrency
//
// Everything exported is safe for concurrent use. Connections have no
// goroutines: each loop of a [Group], by default one a processor, serves any
// number of proxies from one goroutine, on one thread that sleeps in
// epoll_wait(2). Loops start when they are first needed and end, waited for,
// with [Group.Close], or with the proxy if the group is its own.
//
// # Be aware
//
//   - Linux only.
//   - The backend sees the proxy's address as its client. A backend that trusts
//     127.0.0.1 must not be reachable through a proxy.
//   - Urgent data (RFC 6093) arrive in the stream, no longer marked.
//   - A connection costs two descriptors and a flow one. RLIMIT_NOFILE is the
//     caller's business.
//   - Connections to one backend address and port come from the host's
//     ephemeral ports (ip(7), ip_local_port_range), some 28,000 less those in
//     TIME_WAIT. When they run out, dials count as refused.
//   - The proxy of a UDP service that amplifies amplifies as much; nothing
//     limits the rate.
//   - Without CAP_NET_ADMIN the buffers of a UDP frontend are bounded by
//     net.core.rmem_max, and bursts beyond them are lost. Without
//     CAP_SYS_RESOURCE pipes count against fs.pipe-user-pages-soft.
//   - Where a system call filter refuses pipe2(2) or splice(2) all data are copied;
//     [Group.PipeError] and [GroupOptions.PipeFailed] say so.
package proxy
