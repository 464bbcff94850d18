// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package host reads what the kernel has in a network namespace besides rules of netfilter:
// links, addresses, traffic control, policy rules, routes, sysctls, neighbours, counters and
// sockets.
//
// A [Host] reads each thing when it is asked for it, once, and changes nothing: what it says is of
// one moment for one explanation. Routes are looked up by the kernel. Only if that gives an
// error, the policy rules and routes are read, to find which of them is the cause. [Host.Probe]
// alone sends packets.
//
// What cannot be read without a privilege is in [Host.Unread].
package host
