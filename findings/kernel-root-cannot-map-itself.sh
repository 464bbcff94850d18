#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, util-linux 2.38.1
# Expected: what an unprivileged user may do, user 0 without capabilities may do too, such as to become root of a new user namespace
# Happens: user 0 may not, because to map user 0 takes CAP_SETFCAP (since Linux 5.12); user 65534 may
#
# Seen: "Operation not permitted" for user 0, success for user 65534. Needs root.
. "$(dirname "$0")/lib.sh"

prepare() {
	: # uses the util-linux that is installed: user 65534 may not enter the temporary directory
}

# as USER runs unshare as that user, without capabilities.
as() {
	setpriv --reuid "$1" --regid "$1" --clear-groups --bounding-set=-all --inh-caps=-all \
		unshare --user --map-root-user echo mapped 2>&1
}

show() {
	unshare --version
	expect 'user 0' 'Operation not permitted' "$(as 0)"
	expect 'user 65534' 'mapped' "$(as 65534)"
}

run
