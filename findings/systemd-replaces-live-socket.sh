#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: systemd 252
# Expected: a socket unit for a path on which another process listens fails with "Address already in use", as for a TCP port
# Happens: systemd removes the other's socket file and binds its own, without a message; the other process listens on where nobody can connect
#
# Seen: the file at the path was another one afterwards, and the first listener was still there.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb systemd=252.39-1~deb12u2 libsystemd-shared=252.39-1~deb12u2
}

show() {
	LD_LIBRARY_PATH+=:$DIR/root/usr/lib/$(uname -m)-linux-gnu/systemd:$DIR/root/lib/systemd
	systemd-tmpfiles --version | head -1
	cd "$DIR"
	python3 -c 'import socket, time; s = socket.socket(socket.AF_UNIX); s.bind("x.sock"); s.listen(); time.sleep(60)' &
	until [[ -S x.sock ]]; do sleep 0.1; done
	before=$(stat -c %i x.sock)
	# It binds as .socket units do.
	systemd-socket-activate -l "$DIR/x.sock" cat &
	for _ in {1..50}; do
		[[ $(stat -c %i x.sock 2>/dev/null) == "$before" ]] || break
		sleep 0.1
	done
	[[ $(stat -c %i x.sock) == "$before" ]] && file=same || file=another
	expect 'the file at the path' another "$file"
	expect 'who listens' ' x.sock ' "$(ss -xl)"
	expect 'who listens' "$DIR/x.sock " "$(ss -xl)"
}

run
