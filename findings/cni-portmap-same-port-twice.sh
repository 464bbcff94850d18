#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: CNI portmap 1.1.1, iptables 1.8.9
# Expected: a second ADD of a host port that another container has fails
# Happens: both succeed; the first container's rule wins, and the second gets the port silently when the first is deleted
#
# Seen: two rules for port 8080, c1's before c2's, and both commands exit 0.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb containernetworking-plugins=1.1.1+ds1-3+b5 iptables=1.8.9-2
}

# portmap COMMAND CONTAINER ADDRESS
portmap() {
	CNI_COMMAND=$1 CNI_CONTAINERID=$2 CNI_NETNS=$DIR/$2 CNI_IFNAME=eth0 CNI_PATH=/ \
		"$DIR/root/usr/lib/cni/portmap" <<-END
		{"cniVersion": "1.0.0", "name": "net", "type": "portmap",
		 "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
		 "prevResult": {"cniVersion": "1.0.0",
		  "interfaces": [{"name": "v1"}, {"name": "eth0", "sandbox": "$DIR/$2"}],
		  "ips": [{"address": "$3/24", "interface": 1}]}}
	END
}

show() {
	"$DIR/root/usr/lib/cni/portmap" 2>&1 </dev/null
	iptables --version
	touch "$DIR/c1" "$DIR/c2"
	unshare --net="$DIR/c1" true
	unshare --net="$DIR/c2" true
	ip link add v1 type veth peer name v2
	ip addr add 10.1.0.1/24 dev v1
	ip link set v1 up
	expect 'route_localnet before' 0 "$(cat /proc/sys/net/ipv4/conf/v1/route_localnet)"
	portmap ADD c1 10.1.0.2 >/dev/null
	portmap ADD c2 10.1.0.3 >/dev/null
	expect 'rules, in order' '\"c1\"' "$(iptables -t nat -S CNI-HOSTPORT-DNAT | sed -n 2p)"
	expect 'rules, in order' '\"c2\"' "$(iptables -t nat -S CNI-HOSTPORT-DNAT | sed -n 3p)"
	portmap DEL c1 10.1.0.2
	expect 'rules after DEL of c1' '\"c2\"' "$(iptables -t nat -S CNI-HOSTPORT-DNAT | sed -n 2p)"
	portmap DEL c2 10.1.0.3
	# Left behind, for the interface that leads to the containers.
	expect 'route_localnet after both DELs' 1 "$(cat /proc/sys/net/ipv4/conf/v1/route_localnet)"
	umount "$DIR/c1" "$DIR/c2"
}

run
