// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package lab makes throwaway networks out of network namespaces: machines,
// the wires between them, servers that tell who asked them, and clients that
// ask. Nothing it does is seen outside, and nothing stays when it is closed.
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
// Namespaces belong to threads in Linux, and goroutines wander between
// threads; so whatever is done inside a namespace is done on a thread made for
// it, which ends afterwards ([NS.Do]). No thread of the process is ever left
// in another namespace. A socket, however, stays in the namespace it was made
// in, and can be used by every goroutine. The goroutines of a [Server] end
// before its Close returns; there are no others.
//
// # Be aware
//
// Making namespaces needs CAP_SYS_ADMIN, which a user has in a user namespace
// of his own; tests get that from package labtest.
//
// The kernel takes a namespace down in the background, some time after Close.
// An open socket keeps its namespace, and so does a process.
//
// Addresses are literal. Interfaces named in them ("[fe80::1%eth0]:80") are
// looked up inside the namespace by this package, but not by package net,
// which has one table of interfaces for the whole process.
//
// The wires have no delay and lose nothing, and hardware offloads are as veth
// has them: packets can be larger than the MTU, and their checksums are not
// filled in until they must be.
package lab
