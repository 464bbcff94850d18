// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"encoding/binary"
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

// What this kernel's nft(8) cannot make, of later kernels.
func TestPrintLater(t *testing.T) {
	table := &Table{Family: unix.NFPROTO_INET, Name: "t"}
	load := func(key uint32, r Register) Expr { return Meta{Key: key, Dreg: r} }
	for want, exprs := range map[string][]Expr{
		"meta mark set meta mark | ct mark": {
			load(unix.NFT_META_MARK, 4), CT{Key: unix.NFT_CT_MARK, Dreg: 5, Direction: -1}, Bitwise{Sreg: 4, Sreg2: 5, Dreg: 4, Op: BitwiseOr, Len: 4},
			Meta{Key: unix.NFT_META_MARK, Sreg: 4, Set: true},
		},
		"meta mark set meta mark ^ 0x00000007": {
			load(unix.NFT_META_MARK, 4), Bitwise{Sreg: 4, Dreg: 4, Op: BitwiseXor, Len: 4, Data: binary.NativeEndian.AppendUint32(nil, 7)},
			Meta{Key: unix.NFT_META_MARK, Sreg: 4, Set: true},
		},
		"meta broute set 1":                       {Immediate{Dreg: 4, Data: []byte{1}}, Meta{Key: 35, Sreg: 4, Set: true}},
		"meta ibrhwaddr 00:11:22:33:44:55":        {load(36, 4), Cmp{Sreg: 4, Data: []byte{0, 0x11, 0x22, 0x33, 0x44, 0x55}}},
		"meta 99 7":                               {load(99, 4), Cmp{Sreg: 4, Data: binary.NativeEndian.AppendUint32(nil, 7)}},
		"last used 1m5s":                          {Last{Seen: true, Ago: 65_000}},
		"last used never":                         {Last{}},
		"queue flags bypass,fanout to 1-4":        {Queue{First: 1, Total: 4, Flags: 3}},
		"queue to symhash mod 2":                  {Hash{Type: unix.NFT_HASH_SYM, Modulus: 2, Dreg: 4}, Queue{Sreg: 4}},
		"flow add @ft":                            {Flow{Table: "ft"}},
		"tunnel id 5":                             {Tunnel{Key: 1, Dreg: 4}, Cmp{Sreg: 4, Data: binary.NativeEndian.AppendUint32(nil, 5)}},
		"[ inner type 1 ]":                        {Inner{Type: 1}},
		"meta secmark set \"ssh\"":                {Objref{Type: objSecmark, Name: "ssh"}},
		"limit rate 7/99 seconds burst 2 packets": {Limit{Rate: 7, Unit: 99, Burst: 2}},
		"meta l4proto sctp sctp chunk 77 exists":  {load(unix.NFT_META_L4PROTO, 4), Cmp{Sreg: 4, Data: []byte{132}}, Exthdr{Op: exthdrSCTP, Type: 77, Present: true, Dreg: 4}, Cmp{Sreg: 4, Data: []byte{1}}},
		"tcp option @253,16,16 5":                 {Exthdr{Op: exthdrTCP, Type: 253, Offset: 2, Len: 2, Dreg: 4}, Cmp{Sreg: 4, Data: []byte{0, 5}}},
		"exthdr 140 @0,8 5":                       {Exthdr{Op: exthdrIPv6, Type: 140, Len: 1, Dreg: 4}, Cmp{Sreg: 4, Data: []byte{5}}},
		"[ lookup reg 4 set gone ]":               {load(unix.NFT_META_MARK, 4), Lookup{Set: "gone", Sreg: 4}},
		"[ objref map gone ]":                     {Objref{Map: "gone", Sreg: 4}},
		"[ objref type 77 \"x\" ]":                {Objref{Type: 77, Name: "x"}},
		"meta mark set [ reg 9 ]":                 {Meta{Key: unix.NFT_META_MARK, Sreg: 9, Set: true}},
		"dup to 7":                                {Immediate{Dreg: 4, Data: binary.NativeEndian.AppendUint32(nil, 7)}, Dup{Dev: 4}},
		"@ih,0,8 0x1":                             {Payload{Base: unix.NFT_PAYLOAD_INNER_HEADER, Len: 1, Dreg: 4}, Cmp{Sreg: 4, Data: []byte{1}}},
		"verdict -77":                             {Immediate{Decision: &Decision{Code: -77}}},
	} {
		require.Equal(t, want, (&Printer{Counters: true}).Rule(&Rule{Chain: &Chain{Table: table}, Exprs: exprs}))
	}
}
