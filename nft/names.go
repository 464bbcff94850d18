// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"fmt"
	"slices"
)

// maxName is the kernel's limit on the length of a name, without its final NUL
// (NFT_NAME_MAXLEN in include/uapi/linux/netfilter/nf_tables.h).
const maxName = 255

// CheckName returns an error if nft(8) cannot read a listing with a table, chain, map or
// set of this name. A name is a letter, then
// letters, digits, "_", "-" and "." (within "string" of nftables' src/scanner.l),
// and no keyword of nft(8). The kernel takes any name.
func CheckName(name string) error {
	if name == "" {
		return fmt.Errorf("check name: it is empty")
	}
	if len(name) > maxName {
		return fmt.Errorf("check name: it has %d bytes, the kernel takes %d", len(name), maxName)
	}
	for i := range len(name) {
		c := name[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		rest := c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.'
		if !letter && (i == 0 || !rest) {
			return fmt.Errorf("check name %q: nft(8) cannot read byte %d of it", name, i+1)
		}
	}
	if _, found := slices.BinarySearch(keywords[:], name); found {
		return fmt.Errorf("check name %q: it is a keyword of nft(8)", name)
	}
	return nil
}

// keywords are the words that the lexer of nft(8), up to 1.1, takes for tokens where a name
// can be. Sorted.
var keywords = [...]string{
	"accept", "add", "addrtype", "ah", "all", "and", "arp", "at", "audit", "auto-merge", "bridge", "burst",
	"bypass", "bytes", "cgroup", "cgroupv2", "chain", "chains", "cmd", "code", "comment", "comp", "constant",
	"continue", "count", "counter", "counters", "cpu", "create", "ct", "daddr", "day", "dccp", "define",
	"delete", "describe", "destroy", "device", "devices", "dnat", "drop", "dscp", "dst", "dup", "dynamic",
	"ecn", "element", "elements", "eq", "esp", "ether", "exists", "expectation", "expires", "export", "exthdr",
	"fanout", "fib", "flags", "flow", "flowtable", "flowtables", "flush", "frag", "fully-random", "fwd",
	"gc-interval", "ge", "geneve", "get", "goto", "gre", "gretap", "gt", "handle", "hash", "hbh", "helper",
	"helpers", "hook", "hooks", "hoplimit", "hour", "hours", "ibriport", "ibrname", "ibrport", "icmp",
	"icmpv6", "id", "igmp", "iif", "iifgroup", "iifname", "iiftype", "import", "in", "include", "index",
	"inet", "insert", "integer", "interval", "ip", "ip6", "ipsec", "jhash", "json", "jump", "l4proto", "last",
	"le", "length", "level", "limit", "limits", "list", "ll", "log", "lshift", "lt", "mac", "map", "maps",
	"mark", "masquerade", "memory", "meta", "meter", "meters", "mh", "missing", "mod", "monitor", "ne",
	"netdev", "nfproto", "nftrace", "nh", "not", "notrack", "numgen", "obriport", "obrname", "obrport",
	"offload", "offset", "oif", "oifgroup", "oifname", "oiftype", "or", "original", "osf", "over", "packets",
	"performance", "persistent", "pkttype", "policy", "position", "prefix", "priority", "proto", "protocol",
	"queue", "queue-threshold", "quota", "quotas", "random", "range", "rate", "redefine", "redirect", "reject",
	"rename", "replace", "reply", "reset", "return", "rshift", "rt", "rt0", "rt2", "rt4", "rtclassid", "rule",
	"rules", "ruleset", "saddr", "sctp", "secmark", "secmarks", "seq", "set", "sets", "size", "skgid", "skuid",
	"snaplen", "snat", "socket", "spi", "src", "srh", "state", "status", "string", "symhash", "synproxy",
	"synproxys", "table", "tables", "tcp", "th", "time", "timeout", "to", "tproxy", "transparent", "ttl",
	"tunnel", "type", "typeof", "udp", "udplite", "undefine", "unlimited", "until", "update", "used",
	"version", "vlan", "vmap", "vni", "vxlan", "wildcard", "with", "xor", "xt", "zone",
}
