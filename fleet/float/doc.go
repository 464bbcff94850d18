// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package float keeps addresses each on one living host of several.
//
// A [Manager] runs on each host. The host that has the key of an address in etcd, under the
// lease of its agent, is the holder: it has what is mapped there published, has the address
// on its interface, and has announced it to the neighbours. When its lease ends, another takes
// the key.
//
// # Never two at once
//
// The kernel is the fence. The holder adds the address for a time that ends before its lease
// can, counted from when the last renewal was sent, and gives it more with each renewal. So a
// holder that is killed, stopped, hung or cut off loses the address by itself, about a second
// before another can have the key. This is as good as the clocks are: the holder counts the
// lease by CLOCK_BOOTTIME less 1 %, the kernel the address by jiffies, and etcd the lease by
// CLOCK_MONOTONIC of its leader. A machine that was suspended has the address until it
// notices.
//
// Two hosts have an address for milliseconds while it is handed over, so that no connection is
// refused; see [HandOver].
package float
