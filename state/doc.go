// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package state reads and writes the file of "nftnat export" and "nftnat apply -f": YAML
// 1.2 that lists what a table is to hold, an [nat.State].
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
// What a file does not list is not to be there: one with mappings alone makes networks
// and endpoints go. One with none of the three is refused; "mappings: []" says that
// there are none. version is 1, and may be absent.
//
// A network has gateway (absent: its first address), next, from which on the next free
// address is looked for (absent: where the network of that name has left off), masquerade
// and guard (absent: true). An endpoint has network (absent: that of its address), and
// ports, which are port specs ([nat.ParsePortSpec]).
//
// A mapping stands there in its text form, or as an object where there is more
// to say: name (absent: none), proxy (absent: true), and expires (absent:
// never), a time of RFC 3339. A text that begins with a bracket has to be
// quoted, or YAML reads a list.
//
// [Decode] takes a whole file or nothing of it. What it refuses it names by
// file, line and reason, in a [*LineError] that is an
// [nat.ErrInvalid]: keys it does not know, keys given twice, what is not valid or
// cannot be together, and endpoints without address and frontend port 0, as a file says
// which are taken and does not ask for any.
// [Encode] writes one order only: equal contents make equal files. The first line of what
// it writes says that the last one is "...", so that Decode notices where the rest was cut
// off. What people write needs neither, and that it was cut is noticed only where what is
// left cannot be read.
//
// Decode and Encode keep nothing between calls and may be called from several
// goroutines at once.
//
// Be aware:
//   - Whether a prefix, an address or a port can be had on this host is not known here.
//   - Comments in a file do not survive Decode and Encode.
//   - Of YAML, explicit keys ("? key"), tags, directives, merge keys and a
//     second document are refused; aliases and every style of scalar are taken.
//   - A file may have 64 MiB; if it is not in the form that Encode writes,
//     8 MiB, because a general YAML reader needs a hundred times a file's size
//     in memory.
package state
