// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package conntrack lists, counts and deletes the flows that the kernel's
// connection tracking holds, over ctnetlink (NETLINK_NETFILTER, subsystem
// NFNL_SUBSYS_CTNETLINK).
//
// NAT rules are looked at once, by the first packet of a flow; every later
// packet follows the flow's conntrack entry. A change of rules therefore does
// nothing to flows that exist already, until their entries are deleted: that
// is what this package is for. [Conn.Delete] names flows as a published port
// does: protocol, original destination address, original destination port.
//
// # Cost
//
// A table can hold hundreds of thousands of flows. Nothing here copies it:
// entries are decoded one at a time, in place, from one receive buffer, and
// where the kernel can filter a dump (CTA_FILTER, Linux 5.8) it sends only
// candidates. A range of ports costs one pass over the table, whatever its
// size. Memory does not depend on the size of the table.
//
// # Concurrency
//
// A [Conn] may be used from many goroutines: its operations run one after the
// other, under a lock that is held for the whole pass. The functions handed to
// [Conn.Each] and [Conn.Delete] run under that lock too, and must not call
// methods of the same Conn other than [Conn.Close]. Close takes no lock: it
// interrupts the operation under way, which then reports [io/fs.ErrClosed].
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
//   - The entry of a flow's first packet is in no list while that packet is on
//     its way through the host; it cannot be listed or deleted until then.
//   - Deleting an entry does not stop a flow. Its next packet makes a new
//     entry, by the rules of that time.
//   - Kernels before 5.8 ignore or refuse the dump filter; everything works
//     there, at the price of a dump of the whole table.
//   - Nothing stays in the kernel after Close but the deletions.
package conntrack
