// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package docker stands in for docker-proxy, the program that dockerd starts for each published
// port and family, and declares Docker's networks.
//
// [Proxy] takes docker-proxy's flags and descriptors. It publishes the port in the daemon, in a
// session that lasts as long as its connection, and then replaces itself by a program of one page
// that waits to be told to stop ([ADR 60]). Where no daemon answers, it carries the port itself.
//
// [Watch] follows Docker's networks, for a dockerd that makes no rules.
//
// Both are clients of a daemon's socket.
//
// [ADR 60]: https://github.com/nftnat/nftnat/blob/main/docs/adr/0060-docker-proxy.md
package docker
