// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package cni is a plugin of the Container Network Interface (CNI) that publishes the ports of
// containers, in place of portmap: a [Plugin] is what a runtime executes, and [Install] edits the
// list of plugins that the runtime reads.
//
// All that is published for a container on a network has one name ([OwnerName]), so that it is
// removed without knowing the ports. Beside the socket of the daemon is a file for each owner that
// has ports, which says who that is and in which network namespace: another container takes over
// the port of one whose namespace has gone.
package cni
