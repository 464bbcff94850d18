// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package etcdtest runs a real etcd in tests: members, hosts and a client on a LAN, each in a
// network namespace of its own.
//
//	func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }
//
//	func TestIt(t *testing.T) {
//		c := etcdtest.New(t, etcdtest.Options{Hosts: 3})
//		client := c.Open(t, c.Hosts[0]) // connects from inside that host
//		require.NoError(t, c.LAN.Cut(c.Hosts[0]))
//		c.Members[0].Kill()
//		...
//
// Members are processes of the machine's etcd and take about two seconds to elect a leader.
// Their files are in memory where /run is. A test that needs them is skipped if there is no
// etcd, or fails with NFTNAT_TEST_NETNS=require (see labtest).
package etcdtest
