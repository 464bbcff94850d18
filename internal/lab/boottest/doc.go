// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package boottest boots machines for tests: the installed systemd as process 1
// of its own PID, mount, cgroup, IPC and UTS namespaces, in the network
// namespace of a [lab.NS].
//
//	func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }
//
//	func TestUnit(t *testing.T) {
//		m := boottest.Boot(t, labtest.NewNS(t, "host"), map[string]string{
//			"/usr/bin/thing":                         "thing",
//			"/usr/lib/systemd/system/thing.service": "thing.service",
//		})
//		m.Exec("systemctl", "start", "thing")
//		require.Equal(t, 0, m.As("alice", "thing", "ls").Code)
//	}
//
// The machine's files are those of the host, through an overlay: what the
// machine writes stays in memory and is gone with it. /etc/systemd/system is
// empty at first, so no service that the host has enabled runs in it; those of
// the systemd package itself run if a container would run them.
//
// It takes about a second to boot. When the test ends every process of the
// machine is killed, and its mounts and control groups are removed. If the test
// has failed, the journal is in its log.
//
// # Requirements
//
// Root of the host's first user namespace, or of a container that may mount, with
// systemd and util-linux installed. Where the machine cannot be booted the test is
// skipped with the reason; with NFTNAT_TEST_NETNS=require it fails. It is one of the
// long tests, which are left out without NFTNAT_TEST_LONG=1.
//
// # Limits
//
// /sys and all of /proc/sys but /proc/sys/net are read-only, and there are no
// devices but null, zero, full, random, urandom, tty and pseudo-terminals, so
// that a machine cannot change its host. udev and logind do not run.
package boottest
