// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package demo shows a fleet at work in network namespaces of its own: three hosts with a
// daemon and an agent each, an etcd, a web server and a client. A host dies, and its floating
// address moves.
//
// It runs the programs that a user would: etcd, nftnat and nftnat-fleet.
package demo
