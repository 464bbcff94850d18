// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package state reads and writes an [nat.State]: as YAML, which "nftnat export" writes and
// "nftnat apply -f" reads, and as JSON, in which a [File] stores it for reboots. [Decode]
// reads both; [Scan] makes no list of very many mappings.
//
//	version: 1
//	networks:
//	  - {name: inside, prefix: 172.30.0.0/24, gateway: 172.30.0.1, next: 172.30.0.3}
//	endpoints:
//	  - {name: web, network: inside, address: 172.30.0.2, ports: ["8080:80", "53:53/udp"]}
//	mappings:
//	  - 8080->172.17.0.2:80
//	  - "[2001:db8::1]:8000-8009->[fd00::2]:9000-9009/udp"
//	  - {mapping: "53->172.17.0.2:53/udp", name: dns, proxy: false, expires: 2027-01-01T00:00:00Z}
//
// A file lists everything: one with mappings alone has no networks and no endpoints. One
// with none of the three lists is refused; "mappings: []" says that there are none.
// Defaults: version 1; gateway the first address; next where the network of that name has
// left off; guard, proxy and masquerade of a network true; network that of the address; no name; expires
// never. ports are port specs ([nat.ParsePortSpec]), expires is a time of RFC 3339. In YAML
// a text that begins with a bracket has to be quoted.
//
// Decode refuses a whole file, with line and reason ([*LineError]), if it has a key that is
// unknown or given twice, an item that is invalid or contradicts another, an endpoint
// without an address, or frontend port 0. [Encode] writes equal states as equal files, and
// in the first line that the last is "...", so that Decode notices if the end was cut off.
//
// Functions keep nothing between calls and may be called by several goroutines at once.
//
// Be aware:
//   - Whether a prefix, an address or a port can be had on this host is not known here.
//   - Comments in a file do not survive Decode and Encode.
//   - Of YAML, explicit keys ("? key"), tags, directives, merge keys and a
//     second document are refused; aliases and every style of scalar are accepted.
//   - A file may have 64 MiB, but YAML that Encode has not written 8 MiB: the YAML library
//     needs up to a hundred times a file's size in memory. What has an item a line, as Encode
//     writes it, is read without the library.
package state
