// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package portholder holds published ports against other programs, each by a socket, and
// serves by a proxy behind it what netfilter cannot translate: clients on the host's
// loopback addresses, clients of the other family than the backend's, and all clients
// while the rules are missing.
//
// A change has three steps, those of [Switch]. A port that another process has when its
// mapping is adopted is published all the same, as the kernel does so already: the Holder
// tries again until it can bind the port ([Holder.Retry]).
package portholder
