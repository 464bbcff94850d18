// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/nftables/expr"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// machine runs the bytecode of one rule as far as registers go: what is read must
// have been written, by the rule itself, and nothing lies outside the register file.
type machine struct {
	table Table
	// words are the registers; each says what its bytes are, empty: nothing yet.
	words [registerWords]string
	// proto says which tests of the packet's protocols have been made.
	proto map[string]bool
	tests []string
}

func (m *machine) word(reg uint32) int {
	switch {
	case reg >= unix.NFT_REG_1 && reg <= unix.NFT_REG_4:
		return int(reg-unix.NFT_REG_1) * 4
	case reg >= unix.NFT_REG32_00 && reg <= unix.NFT_REG32_15:
		return int(reg - unix.NFT_REG32_00)
	}
	panic(fmt.Sprintf("register %d", reg))
}

// write says what stands in so many bytes from a register on.
func (m *machine) write(reg uint32, size int, what string) error {
	first := m.word(reg)
	if first+padded(size)/4 > registerWords {
		return fmt.Errorf("%s goes past the last register", what)
	}
	for i := range padded(size) / 4 {
		m.words[first+i] = fmt.Sprintf("%s+%d", what, 4*i)
	}
	return nil
}

// read wants one thing there, from its beginning.
func (m *machine) read(reg uint32, size int) (string, error) {
	first := m.word(reg)
	for i := range padded(size) / 4 {
		if first+i >= registerWords || m.words[first+i] == "" {
			return "", fmt.Errorf("word %d is read before it is written", first+i)
		}
	}
	return m.words[first], nil
}

func (m *machine) run(es []expr.Any) error {
	for i, e := range es {
		if err := m.step(e); err != nil {
			return fmt.Errorf("expression %d, %T: %w", i, e, err)
		}
	}
	return nil
}

func (m *machine) step(e expr.Any) error {
	switch e := e.(type) {
	case *expr.Meta:
		if e.SourceRegister {
			_, err := m.read(e.Register, metaSize(e.Key))
			return err
		}
		switch e.Key { //nolint:exhaustive // the others have no selector
		case expr.MetaKeyMARK:
			return m.write(e.Register, 4, MetaMark.String())
		case expr.MetaKeyIIFNAME:
			return m.write(e.Register, unix.IFNAMSIZ, IIFName.String())
		case expr.MetaKeyOIFNAME:
			return m.write(e.Register, unix.IFNAMSIZ, OIFName.String())
		}
		return m.write(e.Register, metaSize(e.Key), metaName(e.Key))
	case *expr.Fib:
		return m.write(e.Register, 4, "fib")
	case *expr.Ct:
		switch e.Key { //nolint:exhaustive // the others are a word
		case expr.CtKeyDSTIP:
			return m.write(e.Register, 4, CTOriginalIPDaddr.String())
		case expr.CtKeyDSTIP6:
			return m.write(e.Register, 16, CTOriginalIP6Daddr.String())
		}
		return m.write(e.Register, 4, "ct")
	case *expr.Payload:
		return m.payload(e)
	case *expr.Bitwise:
		if _, err := m.read(e.SourceRegister, int(e.Len)); err != nil {
			return err
		}
		if len(e.Mask) != int(e.Len) || len(e.Xor) != int(e.Len) {
			return fmt.Errorf("mask of %d and xor of %d for %d bytes", len(e.Mask), len(e.Xor), e.Len)
		}
		return m.write(e.DestRegister, int(e.Len), "masked")
	case *expr.Cmp:
		return m.compare(e)
	case *expr.Lookup:
		return m.lookup(e)
	case *expr.NAT:
		size := 4
		if e.Family == unix.NFPROTO_IPV6 {
			size = 16
		}
		if what, err := m.read(e.RegAddrMin, size); err != nil || what != "value+0" {
			return fmt.Errorf("address from %q: %w", what, err)
		}
		if e.RegProtoMin == 0 {
			break // the port stays
		}
		if what, err := m.read(e.RegProtoMin, 2); err != nil || what != fmt.Sprintf("value+%d", size) && !isSourcePort(what) {
			return fmt.Errorf("port from %q: %w", what, err)
		}
	case *expr.Immediate:
		what := "mark"
		if len(e.Data) == 2 {
			what = fmt.Sprint("port ", binary.BigEndian.Uint16(e.Data))
		}
		return m.write(e.Register, len(e.Data), what)
	case *expr.Masq:
		if !e.ToPorts {
			break
		}
		if e.RegProtoMax == 0 { // one port, of a map or of the packet
			if what, err := m.read(e.RegProtoMin, 2); err != nil || what != "value+0" && !isSourcePort(what) {
				return fmt.Errorf("port from %q: %w", what, err)
			}
			break
		}
		for _, register := range []uint32{e.RegProtoMin, e.RegProtoMax} {
			if what, err := m.read(register, 2); err != nil || !strings.HasPrefix(what, "port ") {
				return fmt.Errorf("port from %q: %w", what, err)
			}
		}
	case *expr.Redir:
		if what, err := m.read(e.RegisterProtoMin, 2); err != nil || what != "value+0" || e.RegisterProtoMax != 0 {
			return fmt.Errorf("port from %q: %w", what, err)
		}
	case *expr.Verdict:
	default:
		return fmt.Errorf("unknown")
	}
	return nil
}

func isSourcePort(what string) bool {
	return what == TCPSport.String()+"+0" || what == UDPSport.String()+"+0"
}

func metaName(k expr.MetaKey) string {
	if k == expr.MetaKeyNFPROTO {
		return NFProto.String()
	}
	if k == expr.MetaKeyL4PROTO {
		return L4Proto.String()
	}
	return fmt.Sprintf("meta %d", k)
}

func metaSize(k expr.MetaKey) int {
	switch k { //nolint:exhaustive // the others are a byte
	case expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME:
		return unix.IFNAMSIZ
	case expr.MetaKeyIIF, expr.MetaKeyMARK:
		return 4
	}
	return 1
}

func (m *machine) payload(e *expr.Payload) error {
	what := fmt.Sprintf("base %d at %d", e.Base, e.Offset)
	for s := IPSaddr; s.inPacket(); s++ {
		d := selectors[s]
		if d.base != e.Base || d.offset != e.Offset || !m.knows(d.nfproto, d.l4proto) {
			continue
		}
		what = s.String()
		if int(e.Len) > dataTypes[d.typ].size {
			return fmt.Errorf("%s is shorter than %d bytes", what, e.Len)
		}
		return m.write(e.DestRegister, int(e.Len), what)
	}
	return fmt.Errorf("nothing was tested that makes %s safe to read", what)
}

func (m *machine) knows(nfproto, l4proto byte) bool {
	return (nfproto == 0 || m.proto[fmt.Sprint("nfproto ", nfproto)]) && (l4proto == 0 || m.proto[fmt.Sprint("l4proto ", l4proto)])
}

func (m *machine) compare(e *expr.Cmp) error {
	what, err := m.read(e.Register, len(e.Data))
	if err != nil {
		return err
	}
	switch what {
	case NFProto.String() + "+0":
		m.tests = append(m.tests, fmt.Sprint("nfproto ", e.Data[0]))
	case L4Proto.String() + "+0":
		m.tests = append(m.tests, fmt.Sprint("l4proto ", e.Data[0]))
	case IIFName.String() + "+0":
		if len(e.Data) != unix.IFNAMSIZ {
			return fmt.Errorf("an interface name is compared by %d bytes", len(e.Data))
		}
		return nil
	default:
		return nil
	}
	if e.Op != expr.CmpOpEq || len(e.Data) != 1 {
		return fmt.Errorf("test of a protocol: %v", e)
	}
	m.proto[m.tests[len(m.tests)-1]] = true
	return nil
}

// lookup wants each field of the key at the start of a word, behind the one before.
func (m *machine) lookup(e *expr.Lookup) error {
	set, ok := m.table.Set(e.SetName)
	if !ok {
		return fmt.Errorf("set %s", e.SetName)
	}
	word := m.word(e.SourceRegister)
	for i, d := range set.Key {
		what := m.words[word]
		field := Selector(0)
		for s := IPSaddr; s.valid(); s++ {
			if what == s.String()+"+0" {
				field = s
			}
		}
		if field == 0 || selectors[field].typ != d {
			return fmt.Errorf("field %d, %s, is %q", i, d, what)
		}
		word += padded(dataTypes[d].size) / 4
	}
	if word-m.word(e.SourceRegister) != padded(set.Key.size())/4 {
		return fmt.Errorf("key of %d words", word)
	}
	if set.Value == nil {
		return nil
	}
	if !e.IsDestRegSet {
		return fmt.Errorf("the value goes nowhere")
	}
	return m.write(e.DestRegister, set.Value.size(), "value")
}

// TestLowering runs the bytecode of the sample and of many random rules.
func TestLowering(t *testing.T) {
	r := newRand(t)
	rules := 0
	for i := range 200 {
		table := sample()
		if i > 0 {
			table = randomTable(r, "t", 20)
		}
		require.NoError(t, table.Validate())
		for _, c := range table.Chains {
			for _, rule := range c.Rules {
				m := machine{table: table, proto: map[string]bool{}}
				require.NoError(t, m.run(assemble(rule)), rule)
				require.Len(t, m.proto, len(m.tests), "a test is made twice: %s", rule)
				requireMarshal(t, rule)
				rules++
			}
		}
	}
	require.Greater(t, rules, 1000)
}

// requireMarshal checks that a rule is encoded as expr.Marshal does it, which leaves the flags of a
// masquerade to ports out.
func requireMarshal(t *testing.T, rule Rule) {
	t.Helper()
	have, err := appendRule(nil, rule)
	require.NoError(t, err, rule)
	var want []byte
	for _, e := range assemble(rule) {
		data, err := expr.Marshal(unix.NFPROTO_INET, e)
		require.NoError(t, err, rule)
		want = nlwire.AppendAttr(want, nlwire.Nested|unix.NFTA_LIST_ELEM, data...)
	}
	if !strings.Contains(rule.String(), "masquerade to") {
		require.True(t, sameExpressions(have, want), rule)
		require.True(t, strings.Contains(rule.String(), "@") || sameExpressions(want, have), rule) // it says that a set has no number
	}
}

func TestLowerDependencyOnceAndFirst(t *testing.T) {
	rule := Rule{
		Within(IPSaddr, netip.MustParsePrefix("10.0.0.0/8")),
		In("a", IPSaddr, IPDaddr, TCPDport),
		DNATv4("m", IPDaddr, TCPDport),
	}
	var metas []expr.MetaKey
	for i, e := range assemble(rule) {
		if m, ok := e.(*expr.Meta); ok {
			metas = append(metas, m.Key)
		}
		if i == 0 {
			require.IsType(t, &expr.Meta{}, e)
		}
	}
	require.Equal(t, []expr.MetaKey{expr.MetaKeyNFPROTO, expr.MetaKeyL4PROTO}, metas)
}

func TestLowerPrefix(t *testing.T) {
	for _, tt := range []struct {
		s      Selector
		prefix string
		load   uint32 // bytes read from the packet
		mask   []byte // nil: none is needed
		data   []byte
	}{
		{IPDaddr, "127.0.0.0/8", 1, nil, []byte{127}},
		{IPDaddr, "192.0.2.0/24", 3, nil, []byte{192, 0, 2}},
		{IPSaddr, "192.0.2.1/32", 4, nil, []byte{192, 0, 2, 1}},
		{IPSaddr, "172.16.0.0/12", 4, []byte{255, 240, 0, 0}, []byte{172, 16, 0, 0}},
		{IP6Saddr, "fe80::/16", 2, nil, []byte{0xfe, 0x80}},
		{IP6Saddr, "fe80::/10", 16, append([]byte{0xff, 0xc0}, make([]byte, 14)...), append([]byte{0xfe, 0x80}, make([]byte, 14)...)},
	} {
		es := assemble(Rule{Within(tt.s, netip.MustParsePrefix(tt.prefix))})[2:]
		require.Equal(t, tt.load, es[0].(*expr.Payload).Len, tt.prefix)
		if tt.mask != nil {
			require.Equal(t, tt.mask, es[1].(*expr.Bitwise).Mask, tt.prefix)
			es = es[1:]
		}
		require.Len(t, es, 2, tt.prefix)
		require.Equal(t, tt.data, es[1].(*expr.Cmp).Data, tt.prefix)
		require.Equal(t, expr.CmpOpEq, es[1].(*expr.Cmp).Op, tt.prefix)
	}
}

func TestLowerInterfaceNamePadded(t *testing.T) {
	es := assemble(Rule{NotFromInterface("lo")})
	require.Equal(t, append([]byte("lo"), make([]byte, 14)...), es[1].(*expr.Cmp).Data)
	require.Equal(t, expr.CmpOpNeq, es[1].(*expr.Cmp).Op)
}

func TestRegister(t *testing.T) {
	require.Equal(t, uint32(unix.NFT_REG_1), register(0))
	require.Equal(t, uint32(unix.NFT_REG32_01), register(1))
	require.Equal(t, uint32(unix.NFT_REG_2), register(4))
	require.Equal(t, uint32(unix.NFT_REG32_15), register(15))
	require.Panics(t, func() { register(16) })
	require.Panics(t, func() { register(-1) })
}
