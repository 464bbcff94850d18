// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHeldError(t *testing.T) {
	at := netip.MustParseAddrPort
	free := netip.MustParseAddr("192.0.2.1")
	peer := at("198.51.100.7:443")
	for want, e := range map[string]HeldError{
		"tcp 8080 is held by another process":                               {},
		"tcp 0.0.0.0:80 is held by nginx (pid 7)":                           {Address: at("0.0.0.0:80"), Inode: 1, PID: 7, Command: "nginx"},
		"tcp 0.0.0.0:80 is held by a process of uid 33":                     {Address: at("0.0.0.0:80"), Inode: 1, UID: 33},
		"tcp 0.0.0.0:80 is held by a process that cannot be seen from here": {Address: at("0.0.0.0:80")},
		"tcp 0.0.0.0:2049 is held by the kernel: no process has the socket": {Address: at("0.0.0.0:2049"), Inode: 1, Kernel: true},
		"tcp 192.0.2.1:80 is held by sshd (pid 7) for a connection with 198.51.100.7:443": {
			Address: at("192.0.2.1:80"), Inode: 1, PID: 7, Command: "sshd", Peer: peer},
		"tcp 192.0.2.1:40000 is held by curl (pid 7) as a client of 198.51.100.7:443: try again": {
			Address: at("192.0.2.1:40000"), Inode: 1, PID: 7, Command: "curl", Peer: peer, Ephemeral: true},
		"tcp 192.0.2.1:40000 is held by a connection with 198.51.100.7:443 that ended less than a minute ago: try again": {
			Address: at("192.0.2.1:40000"), Peer: peer, Ephemeral: true, Ended: true},
		"tcp 192.0.2.1:40000 is held by a connection with 198.51.100.7:443 that is being closed: try again": {
			Address: at("192.0.2.1:40000"), Peer: peer, Ephemeral: true},
		`tcp 127.0.0.53:53 is held by a process of uid 101: publish one address, as with "nftnat add tcp 192.0.2.1:53 ...", or set DNSStubListener=no in resolved.conf`: {
			Address: at("127.0.0.53:53"), Inode: 1, UID: 101, Free: free},
		`tcp 0.0.0.0:53 is held by unbound (pid 7): have it listen on one address (interface: 127.0.0.1) and publish another, as with "nftnat add tcp 192.0.2.1:53 ..."`: {
			Address: at("0.0.0.0:53"), Inode: 1, PID: 7, Command: "unbound", Free: free},
		`tcp [::]:53 is held by named (pid 7): have it listen on one address (listen-on { 127.0.0.1; };) and publish another, as with "nftnat add tcp 192.0.2.1:53 ..."`: {
			Address: at("[::]:53"), Inode: 1, PID: 7, Command: "named", Free: free},
		`tcp 192.168.122.1:53 is held by dnsmasq (pid 7): publish one address, as with "nftnat add tcp 192.0.2.1:53 ..."`: {
			Address: at("192.168.122.1:53"), Inode: 1, PID: 7, Command: "dnsmasq", Free: free},
		"tcp 192.0.2.1:53 is held by named (pid 7)": {Address: at("192.0.2.1:53"), Inode: 1, PID: 7, Command: "named"},
	} {
		e.Want = Mapping{Proto: TCP, Frontend: netip.AddrPortFrom(netip.Addr{}, 8080)}
		require.EqualError(t, &e, want)
		require.ErrorIs(t, &e, ErrConflict)
	}
	for want, e := range map[string]HeldError{
		"udp 0.0.0.0:80 is held by a process of uid 33 or by the kernel":                                  {Inode: 1, UID: 33},
		"udp 0.0.0.0:80 is held by a process of uid 0 or by the kernel (perhaps wireguard interface wg0)": {Inode: 1, Purpose: "perhaps wireguard interface wg0"},
		"udp 0.0.0.0:80 is held by the kernel (perhaps wireguard interface wg0)":                          {Inode: 1, Kernel: true, Purpose: "perhaps wireguard interface wg0"},
		"udp 0.0.0.0:80 is held by the kernel (vxlan interface vx0)":                                      {Inode: 1, Kernel: true, Purpose: "vxlan interface vx0"},
	} {
		e.Want, e.Address = Mapping{Proto: UDP}, at("0.0.0.0:80")
		require.EqualError(t, &e, want)
	}
}
