// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package conntrack lists, counts, deletes and creates the flows that the kernel's
// connection tracking holds, over ctnetlink (NETLINK_NETFILTER, subsystem
// NFNL_SUBSYS_CTNETLINK).
//
// The kernel applies NAT rules to the first packet of a flow; later packets follow the
// flow's conntrack entry. A change of rules does nothing to existing flows until their
// entries are deleted. [Conn.Delete] names flows as a published port
// does: by protocol, original destination address and port. [Conn.Create] makes known what the
// host served before it was tracked.
//
// # Cost
//
// A table can hold hundreds of thousands of flows. Entries are decoded one at a time, in
// place, in memory that does not depend on their number. If the kernel can filter a dump
// (CTA_FILTER, Linux 5.8) it sends only
// candidates. A range of ports costs one pass over the table, whatever its size.
//
// # Concurrency
//
// The methods of a [Conn] may be called at the same time. They run one after the other, under
// a lock; the functions passed to [Conn.Each] and [Conn.Delete] run under it too, and must
// not call methods of the same Conn but [Conn.Close]. Close takes no lock: it
// interrupts the operation under way, whose error is [io/fs.ErrClosed] then.
//
// # Privilege
//
// Every request, reading ones too, needs CAP_NET_ADMIN in the user namespace
// that owns the network namespace (net/netfilter/nfnetlink.c, nfnetlink_rcv);
// without it, errors match [io/fs.ErrPermission].
//
// # Be aware
//
//   - A dump is not a snapshot. It walks the kernel's hash table bucket by
//     bucket while packets go on changing it: an entry that exists for the
//     whole pass is seen at least once, perhaps twice; one that comes or goes
//     meanwhile may be seen or not. A resize of the hash table
//     (net.netfilter.nf_conntrack_buckets) in mid-pass may hide entries.
//   - Change the rules first and delete flows after that: then every entry
//     created during the pass follows the new rules, and missing it is right.
//   - The entry of a flow's first packet cannot be listed or deleted until that packet has
//     left the host.
//   - Deleting an entry does not stop a flow. Its next packet makes a new
//     entry, by the rules of that time.
//   - Kernels before 5.8 ignore or refuse the dump filter; each pass is a dump of the whole
//     table there.
package conntrack
