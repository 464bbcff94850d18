// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/big"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// kind says how nft(8) prints values of a field. The zero value is for numbers.
type kind struct {
	// names are of single values, and of bits if the kind is bitmask.
	names   []name
	bitmask bool
	// quoted puts names into quotes.
	quoted bool
	// number is the verb for other values; empty: decimal.
	number string
	// prefix is set if nft prints values with a mask as address/length.
	prefix bool
	// width is of such values in bytes.
	width int
	text  func(p *printing, b []byte) string
}

type name struct {
	value uint64
	name  string
}

// toNumber returns the number of up to 8 bytes, the most significant first.
func toNumber(b []byte) (n uint64) {
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}

func (k *kind) name(n uint64) (string, bool) {
	at := slices.IndexFunc(k.names, func(x name) bool { return x.value == n })
	if at < 0 {
		return "", false
	}
	if k.quoted {
		return `"` + k.names[at].name + `"`, true
	}
	return k.names[at].name, true
}

// format prints a value, the most significant byte first, numeric without names.
func (k *kind) format(p *printing, b []byte, numeric bool) string {
	switch {
	case k == kindTime && numeric:
		return fmt.Sprintf("%ds", toNumber(b)/1000)
	case k.text != nil:
		return k.text(p, b)
	}
	if len(b) <= 8 && !numeric {
		if s, ok := k.name(toNumber(b)); ok {
			return s
		}
	}
	verb := k.number
	if verb == "" && k.bitmask {
		verb = "0x%x"
	}
	if verb == "" {
		verb = "%d"
	}
	if len(b) <= 8 {
		return fmt.Sprintf(verb, toNumber(b))
	}
	return fmt.Sprintf(verb, new(big.Int).SetBytes(b))
}

// bitNames returns the names of the bits of a value, the lowest first.
func (k *kind) bitNames(p *printing, b []byte) (names []string) {
	for i := range len(b) * 8 {
		at := len(b) - 1 - i/8
		if b[at]&(1<<(i%8)) == 0 {
			continue
		}
		bit := make([]byte, len(b))
		bit[at] = 1 << (i % 8)
		names = append(names, k.format(p, bit, false))
	}
	return names
}

// one reports whether nft(8) prints the bits of a value as one: it has one bit, none, or all.
func one(b []byte) bool {
	n := 0
	for _, c := range b {
		n += bits.OnesCount8(c)
	}
	return n <= 1 || n == 8*len(b)
}

func isZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// maskLen returns how many bits a mask begins with, and whether it has no others.
func maskLen(mask []byte) (n int, ok bool) {
	for i, b := range mask {
		ones := bits.LeadingZeros8(^b)
		n += ones
		if ones < 8 {
			return n, b<<ones == 0 && isZero(mask[i+1:])
		}
	}
	return n, true
}

// reversed returns the bytes in the other order.
func reversed(b []byte) []byte {
	b = bytes.Clone(b)
	slices.Reverse(b)
	return b
}

func formatAddr(_ *printing, b []byte) string {
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return "0x" + hex.EncodeToString(b)
	}
	return a.String()
}

// formatIPv6 prints mapped addresses as getnameinfo(3).
func formatIPv6(_ *printing, b []byte) string {
	a, ok := netip.AddrFromSlice(b)
	switch {
	case !ok:
		return "0x" + hex.EncodeToString(b)
	case isZero(b[:12]) && !isZero(b[12:14]): // compatible
		return "::" + netip.AddrFrom4([4]byte(b[12:])).String()
	}
	return a.String()
}

func formatMAC(_ *printing, b []byte) string {
	parts := make([]string, len(b))
	for i, c := range b {
		parts[i] = hex.EncodeToString([]byte{c})
	}
	return strings.Join(parts, ":")
}

// formatString prints a string; one that is not ended is for all that begin so.
func formatString(_ *printing, b []byte) string {
	s, _, ended := bytes.Cut(b, []byte{0})
	switch {
	case !ended:
		return `"` + string(s) + `*"`
	case bytes.HasSuffix(s, []byte("*")):
		return `"` + string(s[:len(s)-1]) + `\*"`
	}
	return `"` + string(s) + `"`
}

func formatLink(p *printing, b []byte) string {
	n := toNumber(b)
	if p.Link != nil {
		if name := p.Link(uint32(n)); name != "" {
			return `"` + name + `"`
		}
	}
	return strconv.FormatUint(n, 10)
}

// formatClass prints a handle of tc(8).
func formatClass(_ *printing, b []byte) string {
	n := uint32(toNumber(b))
	major, minor := n>>16, n&0xffff
	switch {
	case n == 0:
		return "none"
	case n == 1<<32-1:
		return "root"
	case major == 0:
		return fmt.Sprintf(":%x", minor)
	case minor == 0:
		return fmt.Sprintf("%x:", major)
	}
	return fmt.Sprintf("%x:%x", major, minor)
}

// formatTime prints milliseconds.
func formatTime(_ *printing, b []byte) string { return duration(toNumber(b)) }

func duration(ms uint64) string {
	var s strings.Builder
	for _, unit := range [...]struct {
		ms   uint64
		name string
	}{{86400_000, "d"}, {3600_000, "h"}, {60_000, "m"}, {1000, "s"}, {1, "ms"}} {
		if n := ms / unit.ms; n != 0 {
			fmt.Fprint(&s, n, unit.name)
			ms %= unit.ms
		}
	}
	return s.String()
}

func formatDate(_ *printing, b []byte) string {
	return time.Unix(int64(toNumber(b)/1e9), 0).Format(`"2006-01-02 15:04:05"`)
}

func formatHour(_ *printing, b []byte) string {
	_, offset := time.Now().Zone()
	n := (int(toNumber(b)%86400) + offset + 86400) % 86400
	s := fmt.Sprintf(`"%02d:%02d`, n/3600, n/60%60)
	if n%60 != 0 {
		s += fmt.Sprintf(":%02d", n%60)
	}
	return s + `"`
}

// formatBit prints the number of the lowest bit.
func formatBit(_ *printing, b []byte) string {
	for i := range len(b) * 8 {
		if b[len(b)-1-i/8]&(1<<(i%8)) != 0 {
			return strconv.Itoa(i)
		}
	}
	return "0"
}

// The kinds of nft(8).
var (
	kindInteger  = &kind{}
	kindHex      = &kind{number: "0x%x"}
	kindString   = &kind{text: formatString}
	kindIfname   = &kind{text: formatString, width: 16}
	kindLL       = &kind{text: formatMAC}
	kindEther    = &kind{text: formatMAC, width: 6}
	kindIPv4     = &kind{text: formatAddr, prefix: true, width: 4}
	kindIPv6     = &kind{text: formatIPv6, prefix: true, width: 16}
	kindPort     = &kind{width: 2}
	kindMark     = &kind{number: "0x%08x", prefix: true, width: 4}
	kindIfindex  = &kind{text: formatLink, width: 4}
	kindClass    = &kind{text: formatClass, width: 4}
	kindUID      = &kind{width: 4}
	kindTime     = &kind{text: formatTime, width: 4}
	kindRealm    = &kind{prefix: true, width: 4, quoted: true, names: []name{{0, "cosmos"}}}
	kindDevgroup = &kind{prefix: true, width: 4, quoted: true, names: []name{{0, "default"}}}
	kindDate     = &kind{text: formatDate, width: 8}
	kindHour     = &kind{text: formatHour, width: 4}
	kindLabel    = &kind{text: formatBit, bitmask: true, width: 16}
	kindBitmask  = &kind{number: "0x%x"}
	kindBoolean  = &kind{width: 1, names: []name{{1, "exists"}, {0, "missing"}}}
	kindNFProto  = &kind{width: 1, names: []name{{2, "ipv4"}, {10, "ipv6"}}}
	kindProto    = &kind{width: 1, names: protoNames}
	kindDay      = &kind{width: 1, quoted: true, names: []name{
		{0, "Sunday"}, {1, "Monday"}, {2, "Tuesday"}, {3, "Wednesday"}, {4, "Thursday"}, {5, "Friday"}, {6, "Saturday"},
	}}
	kindEtherType = &kind{width: 2, number: "0x%04x", names: []name{
		{0x800, "ip"}, {0x806, "arp"}, {0x86dd, "ip6"}, {0x8100, "8021q"}, {0x88a8, "8021ad"},
	}}
	kindARPOp = &kind{width: 2, names: []name{
		{1, "request"}, {2, "reply"}, {3, "rrequest"}, {4, "rreply"}, {8, "inrequest"}, {9, "inreply"}, {10, "nak"},
	}}
	kindARPHRD = &kind{width: 2, names: []name{
		{1, "ether"}, {512, "ppp"}, {768, "ipip"}, {769, "ipip6"}, {772, "loopback"}, {776, "sit"}, {778, "ipgre"},
	}}
	kindPktType  = &kind{width: 1, names: []name{{0, "host"}, {1, "broadcast"}, {2, "multicast"}, {3, "other"}}}
	kindAddrType = &kind{width: 4, names: []name{
		{0, "unspec"}, {1, "unicast"}, {2, "local"}, {3, "broadcast"}, {4, "anycast"}, {5, "multicast"}, {6, "blackhole"}, {7, "unreachable"}, {8, "prohibit"},
	}}
	kindCTState = &kind{width: 4, bitmask: true, names: []name{
		{1, "invalid"}, {2, "established"}, {4, "related"}, {8, "new"}, {64, "untracked"},
	}}
	kindCTDir    = &kind{width: 1, names: []name{{0, "original"}, {1, "reply"}}}
	kindCTStatus = &kind{width: 4, bitmask: true, names: []name{
		{1, "expected"}, {2, "seen-reply"}, {4, "assured"}, {8, "confirmed"}, {16, "snat"}, {32, "dnat"}, {512, "dying"},
	}}
	kindCTEvent = &kind{width: 4, bitmask: true, names: []name{
		{1, "new"}, {2, "related"}, {4, "destroy"}, {8, "reply"}, {16, "assured"}, {32, "protoinfo"}, {64, "helper"}, {128, "mark"}, {256, "seqadj"}, {512, "secmark"}, {1024, "label"},
	}}
	kindTCPFlags = &kind{width: 1, bitmask: true, names: []name{
		{1, "fin"}, {2, "syn"}, {4, "rst"}, {8, "psh"}, {16, "ack"}, {32, "urg"}, {64, "ecn"}, {128, "cwr"},
	}}
	kindDSCP = &kind{width: 1, number: "0x%02x", names: []name{
		{0, "cs0"}, {8, "cs1"}, {16, "cs2"}, {24, "cs3"}, {32, "cs4"}, {40, "cs5"}, {48, "cs6"}, {56, "cs7"}, {1, "lephb"},
		{10, "af11"}, {12, "af12"}, {14, "af13"}, {18, "af21"}, {20, "af22"}, {22, "af23"}, {26, "af31"}, {28, "af32"}, {30, "af33"},
		{34, "af41"}, {36, "af42"}, {38, "af43"}, {44, "va"}, {46, "ef"},
	}}
	kindECN      = &kind{width: 1, number: "0x%x", names: []name{{0, "not-ect"}, {1, "ect1"}, {2, "ect0"}, {3, "ce"}}} //nolint:misspell // as nft(8) writes it
	kindICMPType = &kind{width: 1, names: []name{
		{0, "echo-reply"}, {3, "destination-unreachable"}, {4, "source-quench"}, {5, "redirect"}, {8, "echo-request"}, {9, "router-advertisement"},
		{10, "router-solicitation"}, {11, "time-exceeded"}, {12, "parameter-problem"}, {13, "timestamp-request"}, {14, "timestamp-reply"},
		{15, "info-request"}, {16, "info-reply"}, {17, "address-mask-request"}, {18, "address-mask-reply"},
	}}
	kindICMPCode = &kind{width: 1, names: []name{
		{0, "net-unreachable"}, {1, "host-unreachable"}, {2, "prot-unreachable"}, {3, "port-unreachable"}, {4, "frag-needed"}, {9, "net-prohibited"},
		{10, "host-prohibited"}, {13, "admin-prohibited"},
	}}
	kindICMPv6Type = &kind{width: 1, names: []name{
		{1, "destination-unreachable"}, {2, "packet-too-big"}, {3, "time-exceeded"}, {4, "parameter-problem"}, {128, "echo-request"}, {129, "echo-reply"},
		{130, "mld-listener-query"}, {131, "mld-listener-report"}, {132, "mld-listener-done"}, {133, "nd-router-solicit"}, {134, "nd-router-advert"},
		{135, "nd-neighbor-solicit"}, {136, "nd-neighbor-advert"}, {137, "nd-redirect"}, {138, "router-renumbering"}, {141, "ind-neighbor-solicit"},
		{142, "ind-neighbor-advert"}, {143, "mld2-listener-report"},
	}}
	kindICMPv6Code = &kind{width: 1, names: []name{
		{0, "no-route"}, {1, "admin-prohibited"}, {3, "addr-unreachable"}, {4, "port-unreachable"}, {5, "policy-fail"}, {6, "reject-route"},
	}}
	kindICMPXCode = &kind{width: 1, names: []name{{0, "no-route"}, {1, "port-unreachable"}, {2, "host-unreachable"}, {3, "admin-prohibited"}}}
	kindIGMPType  = &kind{width: 1, names: []name{
		{0x11, "membership-query"}, {0x12, "membership-report-v1"}, {0x16, "membership-report-v2"}, {0x22, "membership-report-v3"}, {0x17, "leave-group"},
	}}
	kindDCCPType = &kind{width: 1, names: []name{
		{0, "request"}, {1, "response"}, {2, "data"}, {3, "ack"}, {4, "dataack"}, {5, "closereq"}, {6, "close"}, {7, "reset"}, {8, "sync"}, {9, "syncack"},
	}}
	kindMHType = &kind{width: 1, names: []name{
		{0, "binding-refresh-request"}, {1, "home-test-init"}, {2, "careof-test-init"}, {3, "home-test"}, {4, "careof-test"}, {5, "binding-update"},
		{6, "binding-acknowledgement"}, {7, "binding-error"}, {8, "fast-binding-update"}, {9, "fast-binding-acknowledgement"}, {10, "fast-binding-advertisement"},
		{11, "experimental-mobility-header"}, {12, "home-agent-switch-message"},
	}}
)

// protoNames are the names of /etc/protocols that rules have.
var protoNames = []name{
	{0, "ip"}, {1, "icmp"}, {2, "igmp"}, {3, "ggp"}, {4, "ipencap"}, {5, "st"}, {6, "tcp"}, {8, "egp"}, {9, "igp"}, {12, "pup"}, {17, "udp"}, {20, "hmp"},
	{22, "xns-idp"}, {27, "rdp"}, {29, "iso-tp4"}, {33, "dccp"}, {36, "xtp"}, {37, "ddp"}, {38, "idpr-cmtp"}, {41, "ipv6"}, {43, "ipv6-route"},
	{44, "ipv6-frag"}, {45, "idrp"}, {46, "rsvp"}, {47, "gre"}, {50, "esp"}, {51, "ah"}, {57, "skip"}, {58, "ipv6-icmp"}, {59, "ipv6-nonxt"},
	{60, "ipv6-opts"}, {73, "rspf"}, {81, "vmtp"}, {88, "eigrp"}, {89, "ospf"}, {93, "ax.25"}, {94, "ipip"}, {97, "etherip"}, {98, "encap"}, {103, "pim"},
	{108, "ipcomp"}, {112, "vrrp"}, {115, "l2tp"}, {124, "isis"}, {132, "sctp"}, {133, "fc"}, {135, "mobility-header"}, {136, "udplite"},
	{137, "mpls-in-ip"}, {138, "manet"}, {139, "hip"}, {140, "shim6"}, {141, "wesp"}, {142, "rohc"}, {143, "ethernet"},
}

// kindOf returns the kind of a type that nft(8) notes in a set.
func kindOf(typ uint32) *kind {
	kinds := [...]*kind{
		2: kindNFProto, 3: kindBitmask, 4: kindInteger, 5: kindString, 6: kindLL, 7: kindIPv4, 8: kindIPv6, 9: kindEther, 10: kindEtherType,
		11: kindARPOp, 12: kindProto, 13: kindPort, 14: kindICMPType, 15: kindTCPFlags, 16: kindDCCPType, 17: kindMHType, 18: kindTime, 19: kindMark,
		20: kindIfindex, 21: kindARPHRD, 22: kindRealm, 23: kindClass, 24: kindUID, 25: kindUID, 26: kindCTState, 27: kindCTDir, 28: kindCTStatus,
		29: kindICMPv6Type, 30: kindLabel, 31: kindPktType, 32: kindICMPCode, 33: kindICMPv6Code, 34: kindICMPXCode, 35: kindDevgroup, 36: kindDSCP,
		37: kindECN, 38: kindAddrType, 39: kindBoolean, 40: kindCTEvent, 41: kindIfname, 42: kindIGMPType, 43: kindDate, 44: kindHour, 45: kindDay,
	}
	if int(typ) < len(kinds) && kinds[typ] != nil {
		return kinds[typ]
	}
	return kindInteger
}

// kindsOf returns the kinds of the fields of a type.
func kindsOf(typ uint32) (kinds []*kind) {
	const subtypeBits = 6
	for ; typ != 0; typ >>= subtypeBits {
		kinds = append(kinds, kindOf(typ&(1<<subtypeBits-1)))
	}
	slices.Reverse(kinds)
	return kinds
}

// isHost reports whether registers have such values in the order of the host.
func (k *kind) isHost() bool {
	switch k {
	case kindMark, kindIfindex, kindClass, kindUID, kindTime, kindRealm, kindDevgroup, kindDate, kindHour, kindLabel, kindARPHRD, kindAddrType,
		kindCTState, kindCTStatus, kindCTEvent, kindInteger:
		return true
	}
	return false
}
