#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: firewalld 1.3.3
# Expected: `firewall-cmd --set-default-zone=drop` drops what comes from outside for a port that another program translates by DNAT
# Happens: every connection with `ct status dnat` is accepted before a zone is looked at, whoever translated it; only panic mode stops it
#
# Seen: a client of port 8080, which a rule of another table sends to a backend, is answered in zone drop, and not in panic mode.
. "$(dirname "$0")/lib.sh"

prepare() { firewalld_deb; }

show() {
	unshare --net sleep 1000 &
	local client=$!
	unshare --net sleep 1000 &
	local backend=$! pid
	for pid in $client $backend; do
		until [[ $(readlink "/proc/$pid/ns/net") != "$(readlink /proc/$$/ns/net)" ]]; do sleep 0.1; done
	done
	ip link add lan type veth peer name eth0 netns "$client"
	ip link add inside type veth peer name eth0 netns "$backend"
	ip addr add 192.0.2.1/24 dev lan
	ip addr add 172.30.0.1/24 dev inside
	ip link set lan up
	ip link set inside up
	nsenter -t "$client" -n sh -c 'ip addr add 192.0.2.2/24 dev eth0; ip link set eth0 up'
	nsenter -t "$backend" -n sh -c 'ip addr add 172.30.0.2/24 dev eth0; ip link set eth0 up; ip route add default via 172.30.0.1'
	nsenter -t "$backend" -n /usr/bin/python3 -m http.server 80 >/dev/null 2>&1 &
	sysctl -qw net.ipv4.ip_forward=1
	nft -f - <<-END
		table ip other {
			chain prerouting {
				type nat hook prerouting priority dstnat
				tcp dport 8080 dnat to 172.30.0.2:80
			}
		}
	END
	ask() {
		nsenter -t "$client" -n timeout 3 /usr/bin/python3 -c 'import urllib.request as r
print(r.urlopen("http://192.0.2.1:8080/", timeout=2).status)' 2>&1 | tail -1
	}
	firewalld_start
	until firewall_cmd --state >/dev/null 2>&1; do sleep 0.1; done
	firewall_cmd --version
	firewall_cmd --set-default-zone=drop
	expect 'client, default zone drop' 200 "$(ask)"
	firewall_cmd --panic-on
	expect 'client, panic mode' 'timed out' "$(ask)"
}

run
