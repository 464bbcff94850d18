// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package agent is what a fleet runs on each host: a client of the host's daemon and of etcd.
//
// While etcd is away, nothing that the daemon has is withdrawn, but for floating addresses, whose lease
// ends. When it is back, all is listed and compared once. While the daemon is away, what changes waits.
package agent
