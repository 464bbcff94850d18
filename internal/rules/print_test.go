// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/nlwire"
)

var atHandle = regexp.MustCompile(` # handle (\d+)$`)

// What is printed is what nft(8) lists.
func TestPrint(t *testing.T) {
	files, err := filepath.Glob("testdata/nft/*.nft")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			r, ns := open(t, string(text))
			rs, err := r.Read(t.Context())
			require.NoError(t, err)
			p := Printer{Counters: true, Link: func(n uint32) string {
				return map[uint32]string{1: "lo"}[n]
			}}
			for _, table := range rs.Tables {
				want, chains := listed(labtest.Exec(t, ns, "nft", "-a", "list", "table", table.Family.String(), table.Name))
				got := map[uint64]string{}
				for _, c := range table.Chains {
					require.Equal(t, chains[c.Name], c.String(), c.Name)
					rules, err := r.Rules(c)
					require.NoError(t, err)
					for _, rule := range rules {
						got[rule.Handle] = p.Rule(rule)
						require.NotContains(t, rule.String(), "[ ")
					}
				}
				for _, h := range slices.Sorted(maps.Keys(want)) {
					assert.Equal(t, want[h], got[h])
				}
				require.Len(t, got, len(want))
			}
		})
	}
}

// nft(8) lists chains without names on lines of their own, and what it cannot name as invalid.
func TestPrintOtherwise(t *testing.T) {
	r, _ := open(t, `table ip t {
		chain c {
			tcp dport 80 jump { ip saddr 10.0.0.1 accept; drop; }
			ip saddr 10.0.0.1 goto { accept; }
			meta l4proto tcp ct reply proto-src { 1, 2 }
			tcp dport { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65 } iif 7 oif lo counter
		}
	}`)
	rs, err := r.Read(t.Context())
	require.NoError(t, err)
	rules, err := r.Rules(rs.Tables[0].Chain("c"))
	require.NoError(t, err)
	var many []string
	for port := 1; port <= 64; port++ {
		many = append(many, strconv.Itoa(port))
	}
	for i, want := range []string{
		"tcp dport 80 jump { ip saddr 10.0.0.1 accept; drop; }", "ip saddr 10.0.0.1 goto { accept; }", "meta l4proto tcp ct reply proto-src { 1, 2 }",
		"tcp dport { " + strings.Join(many, ", ") + ", ... } iif 7 oif 1 counter",
	} {
		require.Equal(t, want, rules[i].String())
	}
	rules[0].Exprs = append(rules[0].Exprs[:0], Unknown{Name: "new", Data: []byte{1, 2}}, Cmp{Sreg: 4, Data: []byte{7}}, Match{Name: "x"}, Target{Name: "Y"})
	require.Equal(t, "[ new 0x0102 ] [ cmp reg 4 0x07 ] xt match x xt target Y", rules[0].String())
}

// listed returns the rules in a list of nft(8) by their handles, and the first lines of chains.
func listed(text string) (rules map[uint64]string, chains map[string]string) {
	rules, chains = map[uint64]string{}, map[string]string{}
	chain, depth := "", 0
	for line := range strings.SplitSeq(text, "\n") {
		handle := atHandle.FindStringSubmatch(line)
		line = strings.TrimSpace(atHandle.ReplaceAllString(line, ""))
		switch {
		case strings.HasSuffix(line, "{"):
			depth++
			if name, ok := strings.CutPrefix(line, "chain "); ok {
				chain = strings.TrimSuffix(name, " {")
			} else {
				chain = ""
			}
		case line == "}":
			depth--
			chain = ""
		case chain == "":
		case handle != nil:
			h, _ := strconv.ParseUint(handle[1], 10, 64)
			rules[h] = line
		case strings.HasPrefix(line, "type "):
			chains[chain] = line
		}
	}
	return rules, chains
}

// Whatever expressions hold, they are read, and printed.
func FuzzDecode(f *testing.F) {
	be := nlwire.AppendBE32
	expr := func(name string, attrs []byte) []byte {
		b, at := nlwire.OpenAttr(nil, unix.NFTA_LIST_ELEM)
		b = nlwire.AppendString(b, unix.NFTA_EXPR_NAME, name)
		b = nlwire.AppendAttr(b, unix.NFTA_EXPR_DATA|nlwire.Nested, attrs...)
		return nlwire.CloseAttr(b, at)
	}
	value := func(typ uint16, v ...byte) []byte {
		return nlwire.AppendAttr(nil, typ|nlwire.Nested, nlwire.AppendAttr(nil, unix.NFTA_DATA_VALUE, v...)...)
	}
	load := expr("payload", be(be(be(be(nil, unix.NFTA_PAYLOAD_DREG, 1), unix.NFTA_PAYLOAD_BASE, 1), unix.NFTA_PAYLOAD_OFFSET, 12), unix.NFTA_PAYLOAD_LEN, 4))
	mask := expr("bitwise", append(append(be(be(be(nil, unix.NFTA_BITWISE_SREG, 1), unix.NFTA_BITWISE_DREG, 1), unix.NFTA_BITWISE_LEN, 4), value(unix.NFTA_BITWISE_MASK, 255, 255, 240, 0)...), value(unix.NFTA_BITWISE_XOR, 0, 0, 0, 0)...))
	cmp := expr("cmp", append(be(be(nil, unix.NFTA_CMP_SREG, 1), unix.NFTA_CMP_OP, 0), value(unix.NFTA_CMP_DATA, 10, 0, 0, 0)...))
	lookup := expr("lookup", append(be(nil, unix.NFTA_LOOKUP_SREG, 1), nlwire.AppendString(nil, unix.NFTA_LOOKUP_SET, "s")...))
	f.Add(append(append(slices.Clone(load), mask...), cmp...))
	f.Add(append(append(slices.Clone(load), cmp...), lookup...))
	f.Add(append(slices.Clone(load), expr("nat", be(be(be(nil, unix.NFTA_NAT_TYPE, 1), unix.NFTA_NAT_FAMILY, 2), unix.NFTA_NAT_REG_ADDR_MIN, 1))...))
	f.Add(append(expr("meta", be(be(nil, unix.NFTA_META_DREG, 8), unix.NFTA_META_KEY, 16)), expr("cmp", append(be(be(nil, unix.NFTA_CMP_SREG, 8), unix.NFTA_CMP_OP, 0), value(unix.NFTA_CMP_DATA, 6)...))...))
	f.Add(expr("dynset", append(be(be(nil, unix.NFTA_DYNSET_SREG_KEY, 1), unix.NFTA_DYNSET_OP, 0), nlwire.AppendString(nil, unix.NFTA_DYNSET_SET_NAME, "s")...)))
	f.Fuzz(func(_ *testing.T, list []byte) {
		for _, family := range []Family{unix.NFPROTO_INET, unix.NFPROTO_IPV4, unix.NFPROTO_IPV6, unix.NFPROTO_BRIDGE, unix.NFPROTO_NETDEV, unix.NFPROTO_ARP} {
			t := &Table{Family: family, Name: "t", Sets: map[string]*Set{}}
			for _, s := range []*Set{
				{Table: t, Name: "s", KeyType: 7, KeyLen: 4}, {Table: t, Name: "", KeyType: 7<<6 | 13, KeyLen: 8, DataType: 7, DataLen: 8, Flags: unix.NFT_SET_ANONYMOUS},
			} {
				t.Sets[s.Name] = s
			}
			_ = (&Rule{Chain: &Chain{Table: t, Name: "c"}, Exprs: Decode(list)}).String()
			decodeElement(list)
			decodeObject(list)
			decodeChain(list)
			decodeSet(list)
			decodeFlowtable(list)
			decodeTable(2, list)
		}
	})
}
