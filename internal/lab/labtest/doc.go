// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package labtest makes laboratories of package lab for tests: it puts the
// whole test binary into namespaces of its own, and ties what a test builds to
// the end of the test.
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
// there is neither, tests skip, saying why; with NFTNAT_TEST_NETNS=require in
// the environment, as in continuous integration, they fail instead, so that
// skips cannot go unseen for ever.
//
// # Concurrency
//
// Functions that take a testing.TB end the test when something is wrong, so
// they belong in the goroutine of the test. Parallel tests may each have their
// topology, but [LeakCheck] is not for them.
//
// # Be aware
//
// In a user namespace root is not quite root: there is one user, 0, and what
// asks for a capability in the first user namespace (SO_RCVBUFFORCE beyond the
// limits, nice, most of bpf(2)) is refused.
//
// /run is covered by an empty file system, for the tests alone; what the
// machine keeps there (resolvers' and daemons' sockets) is out of sight, unless
// the tests themselves run from below /run.
//
// A process left behind by a command that a test ran (a daemon that detached
// itself) is the test's to end.
package labtest
