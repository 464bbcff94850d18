#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: systemd 252
# Expected: files for systemd-sysusers and systemd-tmpfiles have to be in /etc, /run or /usr/lib, the only places in their manuals
# Happens: those in /usr/local/lib/sysusers.d and /usr/local/lib/tmpfiles.d are read as well
#
# Seen: the user and the directory of two such files were made.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb systemd=252.39-1~deb12u2 libsystemd-shared=252.39-1~deb12u2
}

show() {
	LD_LIBRARY_PATH+=:$DIR/root/usr/lib/$(uname -m)-linux-gnu/systemd:$DIR/root/lib/systemd
	systemd-tmpfiles --version | head -1
	local root=$DIR/machine
	mkdir -p "$root/etc" "$root/usr/local/lib/sysusers.d" "$root/usr/local/lib/tmpfiles.d"
	echo 'g zz - -' >"$root/usr/local/lib/sysusers.d/zz.conf"
	echo 'd /zz 0755' >"$root/usr/local/lib/tmpfiles.d/zz.conf"
	systemd-sysusers --root="$root"
	systemd-tmpfiles --root="$root" --create
	expect 'the groups there are' 'zz:' "$(cat "$root/etc/group")"
	expect 'the directories there are' 'zz' "$(ls "$root")"
}

run
