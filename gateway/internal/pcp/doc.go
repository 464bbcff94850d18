// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package pcp answers requests for ports by NAT-PMP (RFC 6886) and PCP (RFC 6887, and the option
// of RFC 7220), which share a UDP port, and announces to clients that the WAN's address changed
// or that leases were lost. What is granted is decided by package lease; which datagrams are
// looked at at all, by package lan.
//
// [Server.Answer] is the protocol without sockets: a datagram in, at most one out. It keeps
// nothing between two calls, so any number may run at the same time.
package pcp
