// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package lab makes throwaway networks of network namespaces: machines, the wires between
// them, servers that answer with the client's address, and clients. Nothing outside
// changes, and nothing stays when a network is closed.
//
// A namespace is an [NS]. [Build] makes a [Topology] of several: a client and
// its neighbour on a LAN, the host under test, backends behind the host's
// bridge, and a server far away.
//
//	top, err := lab.Build(lab.Options{Parts: lab.PartBackend1})
//	...
//	web, err := lab.EchoTCP(top.Backend1, "web", ":80")
//	...
//	name, peer, err := lab.Ask(ctx, top.Host, "tcp", "172.30.0.2:80", netip.AddrPort{})
//
// # Concurrency
//
// All functions and methods may be called from several goroutines at once.
// In Linux a thread has a network namespace, and a goroutine moves between threads. So work
// inside a namespace is done on a thread that is made for it and ends afterwards
// ([NS.Do]). A socket stays in the namespace in which it was made, and every goroutine can
// use it. The goroutines of a [Server] end before its Close returns; there are no others.
//
// # Be aware
//
// Making namespaces needs CAP_SYS_ADMIN, which a user has in his own user namespace.
// Package labtest makes one for tests.
//
// The kernel removes a namespace in the background, some time after Close, and only when
// no socket and no process is left in it.
//
// Addresses are literal. Interfaces named in them ("[fe80::1%eth0]:80") are
// looked up inside the namespace by this package, but not by package net,
// which has one table of interfaces for the whole process.
//
// The wires have no delay and lose nothing. As always with veth, packets can be larger than
// the MTU, and their checksums may be missing.
package lab
