#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: dnsmasq 2.90, Linux 6.18
# Expected: `--tftp-single-port` changes the port from which files are sent, whichever way the server binds its address
# Happens: with `--bind-interfaces` no client gets a file over IPv4, and nothing is said of it: dnsmasq asks the kernel to send from an address that it has not looked up; with `--bind-dynamic`, and over IPv6, it works
#
# Seen: "nothing" with both options over IPv4; "hello" over IPv6, with --bind-dynamic instead, and without --tftp-single-port.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb dnsmasq-base=2.90-4~deb12u2 libdbus-1-3 libidn2-0 libnetfilter-conntrack3 libnfnetlink0 libnftables1 libnftnl11 libmnl0 libjansson4
	mkdir "$DIR/files"
	echo hello >"$DIR/files/x"
	chmod -R a+rX "$DIR"
	cat >"$DIR/client.py" <<-'END'
		import socket, sys
		family, _, _, _, peer = socket.getaddrinfo(sys.argv[1], 69)[0]
		client = socket.socket(family, socket.SOCK_DGRAM)
		client.settimeout(3)
		client.sendto(b"\0\1x\0octet\0", peer)
		try:
		    print("received:", client.recv(600)[4:].decode())
		except TimeoutError:
		    print("received: nothing")
	END
}

# receive ADDRESS OPTION... prints what a client receives from a server with the options.
receive() {
	local address=$1
	shift
	: >"$DIR/log"
	dnsmasq --no-daemon --conf-file=/dev/null --port=0 \
		--enable-tftp --tftp-root="$DIR/files" --listen-address=127.0.0.1,::1 "$@" >"$DIR/log" 2>&1 &
	local pid=$!
	until grep -q 'TFTP root' "$DIR/log"; do
		kill -0 $pid 2>/dev/null || { cat "$DIR/log" >&2; exit 3; }
		sleep 0.1
	done
	python3 "$DIR/client.py" "$address"
	kill $pid
	wait $pid || true
}

show() {
	dnsmasq --version | sed -n 1p
	expect '--bind-interfaces' 'hello' "$(receive 127.0.0.1 --bind-interfaces)"
	expect '--bind-interfaces --tftp-single-port' 'nothing' "$(receive 127.0.0.1 --bind-interfaces --tftp-single-port)"
	expect 'the same, over IPv6' 'hello' "$(receive ::1 --bind-interfaces --tftp-single-port)"
	expect '--bind-dynamic --tftp-single-port' 'hello' "$(receive 127.0.0.1 --bind-dynamic --tftp-single-port)"
}

run
