// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package space hands out addresses of networks that hosts share, and ports of addresses that they
// share, so that no two hosts have the same.
//
// A shared network is cut into blocks. A host acquires a block by one transaction of etcd, and
// declares it in its daemon as a network of its own, which leases the addresses, lazily and in cyclic
// order, and has them on record in the kernel. So whatever the daemon leases is unique, whoever asked
// for it, and goes on while etcd is away. A host acquires another block when its own are full, and
// gives one back when it is empty and others have room.
//
// Blocks come round: [ring] has in which order. A block ends by its host or by [Forget] alone, and
// never by time: a host that is away still has endpoints.
//
// [Manager] is what an agent runs; [Create], [Remove], [List], [Forget] and [Open] are what an operator does.
package space
