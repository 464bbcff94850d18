// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package gateway serves the hosts of a LAN that ask for ports of the WAN by NAT-PMP (RFC 6886), PCP
// (RFC 6887) and UPnP IGD. It is a client of a daemon: a port that it gives is a mapping of the
// daemon, with a time-out that the kernel keeps, and a name from which the gateway knows the lease again.
// It keeps no file, and needs no privilege once its sockets are open.
package gateway
