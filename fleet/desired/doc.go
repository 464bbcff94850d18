// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package desired makes a host's daemon have what etcd says it is to have: mappings and networks that are
// desired of the host, of its groups, or of all hosts, in this order of precedence for one name.
//
// A [Reconciler] is told what etcd has, and passes the difference to the daemon in one transaction. It
// touches what the fleet has made, which it knows by its name, and nothing else. An item that the daemon
// refuses stays as it was, with the reason in the report, and does not keep others from being applied.
//
// [Write] is the other side: it makes the desired items of a scope those of a file.
package desired
