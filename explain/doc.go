// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package explain says what becomes of a packet to a published port: the first thing that
// stops it or its answer, or by which path it passes.
//
// It predicts, and changes nothing: it reads the rules of all tables, routes, policy rules, links,
// sysctls, neighbours and sockets of a network namespace, and walks a packet and its answer
// through them in the order of the kernel. It may ask the backend whether it is there. What
// cannot be known is said.
package explain
