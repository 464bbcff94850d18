// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package store is the client of etcd for what a fleet keeps there. It knows what etcd and its client
// do when links are cut, members are killed, revisions compacted and databases restored; its users
// see lists, changes, transactions and deadlines.
//
// Reads are linearizable. A watch is never trusted to go on: whatever ends it, all is listed anew. A
// revision that goes back means that etcd was restored from an older snapshot, which it tells nobody.
// A session counts its time from when a renewal was sent, so that it never believes to have its
// lease when etcd does not.
//
// Keys are relative to the prefix of the options, but in the operations of a transaction: these have
// the whole key, by [Store.Key].
package store
