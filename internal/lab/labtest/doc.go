// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package labtest uses package lab in tests: it runs the whole test binary in namespaces
// of its own, and closes what a test builds when the test ends.
//
//	func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }
//
//	func TestPublished(t *testing.T) {
//		top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1})
//		labtest.EchoTCP(t, top.Backend1, "web", ":80")
//		// ... publish 8080 in top.Host ...
//		peer := labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
//		require.Equal(t, top.Client.V4, peer.Addr())
//	}
//
// # Privilege
//
// Root is not needed where the kernel lets users make user namespaces. Where
// there is neither, tests are skipped with the reason. With NFTNAT_TEST_NETNS=require in
// the environment, as in continuous integration, they fail instead.
//
// # Concurrency
//
// Functions that take a testing.TB call its FailNow, so call them in the goroutine of the
// test. Parallel tests may each have a topology, but must not use [LeakCheck].
//
// # Be aware
//
// In a user namespace there is one user, 0, and calls that need a capability in the first
// user namespace (SO_RCVBUFFORCE beyond the limits, nice, most of bpf(2)) are refused.
//
// /run is an empty file system for the tests, without the machine's own sockets, unless the
// tests themselves run from below /run.
//
// A test has to end the processes that its commands leave behind, such as daemons.
package labtest
