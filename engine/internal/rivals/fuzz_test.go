// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rivals

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
	"github.com/nftnat/nftnat/internal/rules"
)

// expr is an expression as the kernel lists it.
func expr(name string, attrs []byte) []byte {
	b, at := nlwire.OpenAttr(nil, unix.NFTA_LIST_ELEM)
	b = nlwire.AppendString(b, unix.NFTA_EXPR_NAME, name)
	b = nlwire.AppendAttr(b, unix.NFTA_EXPR_DATA|nlwire.Nested, attrs...)
	return nlwire.CloseAttr(b, at)
}

// FuzzRule: whatever a rule holds, it is read or says nothing.
func FuzzRule(f *testing.F) {
	value := func(typ uint16, v ...byte) []byte {
		return nlwire.AppendAttr(nil, typ|nlwire.Nested, nlwire.AppendAttr(nil, unix.NFTA_DATA_VALUE, v...)...)
	}
	be := nlwire.AppendBE32
	load := expr("payload", be(be(be(be(nil, unix.NFTA_PAYLOAD_DREG, 1), unix.NFTA_PAYLOAD_BASE, 2), unix.NFTA_PAYLOAD_OFFSET, 2), unix.NFTA_PAYLOAD_LEN, 2))
	cmp := expr("cmp", append(be(be(nil, unix.NFTA_CMP_SREG, 1), unix.NFTA_CMP_OP, 0), value(unix.NFTA_CMP_DATA, 0, 80)...))
	bitwise := expr("bitwise", append(be(be(nil, unix.NFTA_BITWISE_SREG, 1), unix.NFTA_BITWISE_DREG, 1), value(unix.NFTA_BITWISE_MASK, 255, 0)...))
	info := make([]byte, 48)
	for _, rule := range [][]byte{
		append(append(load, cmp...), expr("redir", nil)...), append(append(load, bitwise...), cmp...),
		expr("match", append(nlwire.AppendString(nil, unix.NFTA_MATCH_NAME, "multiport"), nlwire.AppendAttr(be(nil, unix.NFTA_MATCH_REV, 1), unix.NFTA_MATCH_INFO, info...)...)),
		expr("match", append(nlwire.AppendString(nil, unix.NFTA_MATCH_NAME, "tcp"), nlwire.AppendAttr(nil, unix.NFTA_MATCH_INFO, info[:12]...)...)),
		expr("lookup", append(be(nil, unix.NFTA_LOOKUP_SREG, 1), nlwire.AppendString(nil, unix.NFTA_LOOKUP_SET, "s")...)),
		expr("fib", be(be(be(nil, unix.NFTA_FIB_DREG, 8), unix.NFTA_FIB_RESULT, 3), unix.NFTA_FIB_FLAGS, 2)),
		expr("nat", be(be(nil, unix.NFTA_NAT_TYPE, 1), unix.NFTA_NAT_FAMILY, 2)),
	} {
		f.Add(rule)
	}
	f.Fuzz(func(_ *testing.T, content []byte) {
		exprs := rules.Decode(content)
		for _, family := range []rules.Family{unix.NFPROTO_INET, unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
			t := &rules.Table{Family: family, Name: "t", Legacy: true} // of which nothing is asked
			some, bad := &rules.Set{Name: "s", KeyLen: 2}, &rules.Set{KeyLen: 2}
			t.Sets = map[string]*rules.Set{"s": some, "": bad}
			c := &rules.Chain{Table: t, Name: "c", Base: &rules.Base{}}
			c.Rules = []*rules.Rule{{Chain: c, Exprs: exprs}}
			t.Chains = []*rules.Chain{c}
			e := element{low: []byte{0, 80}, high: []byte{0, 90}}
			w := walk{base: baseChain{Chain: c}, reading: &reading{
				Reader: &rules.Reader{}, found: &Rivals{}, listed: true, lists: map[*rules.Chain][]*rules.Rule{}, sets: map[*rules.Set]*set{some: {keyLen: 2, elements: []element{e}}, bad: {bad: true}},
			}}
			w.chain(c, []box{whole(familiesOf(family))}, 0)
		}
	})
}
