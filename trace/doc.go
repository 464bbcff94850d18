// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package trace shows live what becomes of packets to published ports, and of their answers.
//
// A [Tracer] marks packets for nftrace in a table of its own, which goes with the process, and
// tells each rule that they come to as a [Step], what became of each as a [Packet], and what it cannot
// see as a [Note]. Where eBPF may be used it also tells why the kernel dropped a packet.
//
// Packets that were not asked for are not marked, and what is marked is limited by itself: so many
// packets a second. Nothing of it is left when it ends. It needs CAP_NET_ADMIN.
package trace
