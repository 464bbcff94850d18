// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nft"
)

// Linux before 6.18 with AVX2 goes on with another key where it finds an element of a map of
// intervals that has expired, and 6.1 also one that is being deleted: of ports and addresses, it
// takes the address for the port, and what is in the registers behind the key for the address. So
// that it finds nothing, no rule before may have left an address there.
func TestBehindKeys(t *testing.T) {
	r := behindKeys{t: t, table: Ruleset("nftnat")}
	for _, c := range r.table.Chains {
		if c.Hook.Type != "" {
			r.chain(c.Name, []string{""})
		}
	}
	require.Equal(t, []string{
		"tcp4_host_out_range", "tcp4_host_range", "tcp4_host_range_next", "tcp4_out_range",
		"udp4_host_out_range", "udp4_host_range", "udp4_host_range_next", "udp4_out_range",
	}, slices.Compact(slices.Sorted(slices.Values(r.checked))))
}

// behindKeys walks the chains as a packet of IPv4 may.
type behindKeys struct {
	t       *testing.T
	table   nft.Table
	checked []string
}

var (
	lookup = regexp.MustCompile(`((?:[a-z0-9]+ )*[a-z0-9]+(?: \. (?:[a-z0-9]+ )*[a-z0-9]+)*) (?:map |!= )?@(\w+)`)
	jump   = regexp.MustCompile(`jump ([a-z0-9-]+)`)
)

// chain returns what may be in the third word of the registers behind a chain, by what may be there
// before.
func (r *behindKeys) chain(name string, third []string) []string {
	i := slices.IndexFunc(r.table.Chains, func(c nft.Chain) bool { return c.Name == name })
	require.GreaterOrEqual(r.t, i, 0, name)
	for _, rule := range r.table.Chains[i].Rules {
		var texts []string
		for _, s := range rule {
			texts = append(texts, s.String())
		}
		text := strings.Join(texts, " ")
		if strings.Contains(text, "ip6 ") || strings.Contains(text, "nfproto ipv6") {
			continue
		}
		for _, m := range lookup.FindAllStringSubmatch(text, -1) {
			words := keyWords(m[1])
			s := r.table.Sets[slices.IndexFunc(r.table.Sets, func(s nft.Set) bool { return s.Name == m[2] })]
			switch {
			case len(words) > 2:
				third = []string{words[2]}
			case s.Interval && slices.Equal(s.Key, nft.Type{nft.InetService, nft.IPv4Addr}):
				r.checked = append(r.checked, s.Name)
				for _, of := range third {
					require.NotContains(r.t, of, "addr", "what is behind %q in chain %s", m[0], name)
				}
			}
		}
		if m := jump.FindStringSubmatch(text); m != nil {
			third = slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(third), r.chain(m[1], third)...))))
		}
	}
	return third
}

// keyWords returns which field of a key is in each word of the registers.
func keyWords(key string) (words []string) {
	for field := range strings.SplitSeq(key, " . ") {
		words = append(words, field)
		if strings.HasSuffix(field, "ifname") {
			words = append(words, field, field, field)
		}
	}
	return words
}
