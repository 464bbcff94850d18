// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

// Connections is how many connections one published port has.
type Connections struct {
	// Mapping is the port, a mapping of a single one.
	Mapping Mapping
	// Translated is the number of flows in the connection tracking table that netfilter
	// leads to the backend: TCP connections, also those that ended up to two minutes ago
	// (net.netfilter.nf_conntrack_tcp_timeout_time_wait), and UDP flows that have not timed
	// out.
	Translated int
	// Proxied is the number of connections or flows that the mapping's proxy carries.
	Proxied int64
	// ProxiedEver is how many its proxy has carried since the mapping was published or the
	// engine was opened, whichever was later.
	ProxiedEver uint64
}
