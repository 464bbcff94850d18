// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package marking has the table whose rules mark packets for nftrace.
//
// The table belongs to its socket: it goes with it, however the process ends. It marks what
// was asked for and nothing else: packets to certain addresses and ports, perhaps of one client,
// their answers, and ICMP errors about both. Its other chains do nothing to packets. They are the first and
// the last of each hook, so that a packet that was marked is seen to come to a hook and to
// leave it.
//
// What is asked for are elements of sets, so the rules are the same for one port and for
// 60,000. Values are for one goroutine at a time.
package marking
