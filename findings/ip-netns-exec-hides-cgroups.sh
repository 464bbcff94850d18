#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: iproute2 6.1.0, util-linux 2.38.1
# Expected: a program started by `ip netns exec` has another network and the same file systems, as one started by `nsenter --net`
# Happens: it has a new /sys, and with that an empty /sys/fs/cgroup: no control group can be found by its path, though the process is in one
#
# Seen: the file that lies in /sys/fs/cgroup is there with nsenter, and not with ip. Needs root.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb iproute2=6.1.0-3 libbpf1 util-linux=2.38.1-5+deb12u3
}

show() {
	ip -V
	mount -t tmpfs tmpfs /run
	mkdir "$DIR/cgroup"
	mount -t cgroup2 cgroup2 "$DIR/cgroup"
	mount --bind "$DIR/cgroup" /sys/fs/cgroup
	ip netns add n
	expect 'nsenter --net' 'cgroup.procs' "$(nsenter --net=/run/netns/n ls /sys/fs/cgroup)"
	expect_not 'ip netns exec' 'cgroup.procs' "$(ip netns exec n ls -a /sys/fs/cgroup)"
	expect 'the group of a process of ip netns exec' '/' "$(ip netns exec n cat /proc/self/cgroup)"
}

run
