// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package proxy carries TCP connections and UDP datagrams from a frontend to a
// backend in user space. It serves what netfilter cannot DNAT: what a host
// sends to its own 127.0.0.1 or ::1, and clients of one address family whose
// backend is of the other.
//
// A [Proxy] begins in two steps. [New], or [Bind] and then [Socket.Proxy], takes the
// port: no other process gets it any more, and no client an answer. [Proxy.Open], or
// [Proxy.Run], which also waits, lets traffic in. Between the two a caller can do
// everything else that makes a port reachable. An early client is not refused: its
// SYN is dropped, sent again after a second, and then served. An early UDP datagram is
// lost, as any can be, without an error for the client. [Socket.Refuse] is for a port
// that is held and not served.
//
// It ends in one of three ways: [Proxy.Close] resets its connections,
// [Proxy.Shutdown] waits for them, and [Proxy.Retire] gives the port back and
// lets them end by themselves.
//
// # TCP
//
// Each direction ends separately: FIN is passed on as FIN, RST as RST. A client
// whose backend does not answer within [Options.DialTimeout] is reset. Bulk data go
// from socket to socket by splice(2); messages of up to 32 KiB are copied, which is
// cheaper. There is no idle time-out by default; keep-alive finds dead peers. When
// descriptors or memory run out a proxy stops accepting for at most a second at a
// time, and never ends.
//
// # UDP
//
// A flow is a client's address and the local address that it sent to. It has its own
// socket to the backend, and its answers come from that local address. It ends when
// neither side has sent anything for [Options.IdleTimeout]. There are at most
// [Options.MaxFlows]; one more replaces the one silent longest. ICMP errors end no
// flow and lose only the datagram that caused them. The answer to a broadcast leaves by
// the interface on which it came; multicast is not received. If the backend's port is 69,
// its flows follow TFTP to the port of each transfer. Datagrams are read and written
// many at a time, and runs of equal size leave as one by UDP_SEGMENT where the kernel
// has it.
//
// # Many ports
//
// [Ports] is one proxy for many ports, whatever the width of their ranges: a listener, or a UDP socket, to which
// the kernel leads them (see Lookup of package bpf), and a function that says what backend an address and port has. A
// connection costs what it does elsewhere; the address and port that UDP clients asked for have a
// socket more while there are flows.
//
// # Concurrency
//
// Everything exported is safe for concurrent use. Connections have no goroutines:
// each loop of a [Group], by default one for each processor, serves all its
// connections from one goroutine, whose thread sleeps in epoll_wait(2). Loops start
// when first needed and end, waited for, with [Group.Close], or with the proxy if the
// group is its own.
//
// # Be aware
//
//   - Linux only.
//   - The backend sees the proxy's address as its client. Do not proxy to a backend
//     that trusts 127.0.0.1.
//   - Urgent data (RFC 6093) arrive in the stream, no longer marked.
//   - A connection costs two descriptors and a flow one: mind RLIMIT_NOFILE.
//   - Connections to one backend address and port come from the host's
//     ephemeral ports (ip(7), ip_local_port_range), some 28,000 less those in
//     TIME_WAIT. When they run out, dials count as refused.
//   - The proxy of a UDP service that amplifies does so too; no rate is limited.
//   - Without CAP_NET_ADMIN the buffers of a UDP frontend are bounded by
//     net.core.rmem_max, and bursts beyond them are lost. Without
//     CAP_SYS_RESOURCE pipes count against fs.pipe-user-pages-soft.
//   - Where a system call filter refuses pipe2(2) or splice(2) all data are copied:
//     see [Group.PipeError].
package proxy
