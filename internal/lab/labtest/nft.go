// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

var (
	sizeCount    = regexp.MustCompile(`(?m)(^\t\tsize \d+)[ \t]*# count \d+$`)
	masqueradeBy = regexp.MustCompile(`(?:meta nfproto ipv[46] meta l4proto (?:tcp|udp) )?(masquerade to :(ip6?) saddr \. (tcp|udp) sport map )`)
	redirectBy   = regexp.MustCompile(`(?m)^(\t+)(redirect to :(?:(ip6?) daddr \. )?(tcp|udp) dport map )`)
	dstnatOutput = regexp.MustCompile(`(hook output priority )dstnat(?: ([+-]) (\d+))?;`)
)

// SpellNFT rewrites what nft(8) of any version from 1.0.6 to 1.1.7 lists into the
// spelling of 1.0.6. What differs is:
//
//   - "priority dstnat - 5" at the output hook too, where 1.0.6 has the number;
//   - "size 65535 # count 3", where 1.0.6 has no count;
//   - "fib saddr . iif check missing", where 1.0.6 has "oif missing";
//   - "masquerade to :ip saddr . tcp sport map @m" and "redirect to :udp dport map @m", where 1.0.6 has
//     the protocols before it.
//
// Tests compare with this spelling, and nowhere else with that of a version.
func SpellNFT(listing string) string {
	listing = sizeCount.ReplaceAllString(listing, "$1")
	listing = dstnatOutput.ReplaceAllStringFunc(listing, func(s string) string {
		m := dstnatOutput.FindStringSubmatch(s)
		offset, _ := strconv.Atoi(m[2] + m[3]) // digits, or nothing at all: no offset
		return fmt.Sprintf("%s%d;", m[1], offset-100)
	})
	listing = masqueradeBy.ReplaceAllStringFunc(listing, func(s string) string {
		m := masqueradeBy.FindStringSubmatch(s)
		family := map[string]string{"ip": "ipv4", "ip6": "ipv6"}[m[2]]
		return fmt.Sprintf("meta nfproto %s meta l4proto %s %s", family, m[3], m[1])
	})
	listing = redirectBy.ReplaceAllStringFunc(listing, func(s string) string {
		m := redirectBy.FindStringSubmatch(s)
		family := map[string]string{"ip": "meta nfproto ipv4 ", "ip6": "meta nfproto ipv6 "}[m[3]]
		return fmt.Sprintf("%s%smeta l4proto %s %s", m[1], family, m[4], m[2])
	})
	return strings.ReplaceAll(listing, " check missing", " oif missing")
}
