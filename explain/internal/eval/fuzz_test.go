// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

// draw makes rules of the bytes that a fuzzer gives.
type draw struct{ data []byte }

func (d *draw) n(below int) int {
	if len(d.data) == 0 {
		return 0
	}
	v := int(d.data[0])
	d.data = d.data[1:]
	return v % below
}

func (d *draw) bytes() []byte {
	b := make([]byte, []int{0, 1, 2, 2, 4, 4, 4, 16, 19}[d.n(9)])
	for i := range b {
		b[i] = byte(d.n(256))
	}
	return b
}

func (d *draw) reg() rules.Register {
	if d.n(8) > 0 {
		return reg + rules.Register(d.n(3))
	}
	return rules.Register(d.n(26) - 1)
}

func (d *draw) bool() bool   { return d.n(2) == 1 }
func (d *draw) name() string { return []string{"a", "b", "c", "d", "none"}[d.n(5)] }
func (d *draw) u32() uint32  { return uint32(d.n(256))<<(8*d.n(4)) | uint32(d.n(256)) }

func (d *draw) decision() *rules.Decision {
	return &rules.Decision{Code: []int32{0, 1, 3, -1, -2, -3, -4, -5, 2, 77, -77, 3 | 5<<16}[d.n(12)], Chain: d.name()}
}

func (d *draw) expr() rules.Expr {
	switch d.n(37) {
	case 0:
		return rules.Immediate{Dreg: d.reg(), Data: d.bytes()}
	case 1:
		return rules.Immediate{Decision: d.decision()}
	case 2, 3:
		return rules.Cmp{Sreg: d.reg(), Op: unix.NFT_CMP_NEQ, Data: d.bytes()}
	case 4, 5:
		return rules.Cmp{Sreg: d.reg(), Op: uint32(d.n(7)), Data: d.bytes()}
	case 6:
		return rules.Range{Sreg: d.reg(), Not: d.bool(), From: d.bytes(), To: d.bytes()}
	case 7, 8:
		return rules.Bitwise{
			Sreg: d.reg(), Sreg2: d.reg(), Dreg: d.reg(), Op: uint32(d.n(7)), Len: d.n(90) - 2, Mask: d.bytes(), Xor: d.bytes(),
			Shift: d.u32(), Data: d.bytes(),
		}
	case 9:
		return rules.Byteorder{Sreg: d.reg(), Dreg: d.reg(), Op: d.u32(), Len: d.n(90) - 2, Size: d.n(10) - 1}
	case 10, 11, 12:
		return rules.Meta{Key: uint32(d.n(40)), Dreg: d.reg(), Sreg: d.reg(), Set: d.bool()}
	case 13, 14:
		return rules.CT{Key: uint32(d.n(30)), Dreg: d.reg(), Sreg: d.reg(), Set: d.bool(), Direction: d.n(4) - 1}
	case 15, 16, 17:
		return rules.Payload{Base: uint32(d.n(6)), Offset: d.n(34) - 1, Len: []int{1, 2, 2, 4, 4, 16, 90, -1}[d.n(8)], Dreg: d.reg(), Sreg: d.reg(), Set: d.bool()}
	case 18:
		return rules.Exthdr{Op: uint32(d.n(6)), Type: d.u32(), Offset: d.n(256), Len: d.n(256), Dreg: d.reg(), Set: d.bool(), Present: d.bool()}
	case 19, 20:
		return rules.Lookup{Set: d.name(), Sreg: d.reg(), Dreg: d.reg(), Map: d.bool(), Not: d.bool()}
	case 21:
		return rules.Dynset{Set: d.name(), Op: d.u32(), KeyReg: d.reg(), DataReg: d.reg(), Not: d.bool()}
	case 22:
		return rules.Fib{Result: uint32(d.n(4)), Flags: d.u32(), Dreg: d.reg()}
	case 23:
		return rules.Nat{
			Type: uint32(d.n(2)), Flags: d.u32(), AddrMin: d.reg(), AddrMax: d.reg(), PortMin: d.reg(), PortMax: d.reg(),
		}
	case 24:
		return rules.Redir{PortMin: d.reg(), PortMax: d.reg(), Flags: d.u32()}
	case 25:
		return rules.Masq{PortMin: d.reg(), PortMax: d.reg(), Flags: d.u32()}
	case 26:
		return []rules.Expr{rules.Reject{}, rules.Notrack{}, rules.Counter{}, rules.Log{}, rules.Fwd{}, rules.Dup{}, rules.Last{}}[d.n(7)]
	case 27:
		return []rules.Expr{rules.Limit{}, rules.ConnLimit{}, rules.Quota{Bytes: 100}, rules.Flow{}, rules.Tproxy{}, rules.Synproxy{}}[d.n(6)]
	case 28:
		return rules.Rt{Key: uint32(d.n(6)), Dreg: d.reg()}
	case 29:
		return rules.Numgen{Modulus: d.u32(), Offset: d.u32(), Dreg: d.reg()}
	case 30:
		return rules.Hash{Modulus: d.u32(), Offset: d.u32(), Dreg: d.reg(), Sreg: d.reg(), Len: d.n(90) - 2}
	case 31:
		return rules.Queue{First: d.u32(), Flags: d.u32(), Sreg: d.reg()}
	case 32:
		return rules.Objref{Type: uint32(d.n(12)), Name: d.name(), Map: d.name(), Sreg: d.reg()}
	case 33:
		return []rules.Expr{rules.Socket{Dreg: d.reg()}, rules.OSF{Dreg: d.reg()}, rules.Xfrm{}, rules.Tunnel{}, rules.Inner{}, nil}[d.n(6)]
	case 34:
		names := []string{"tcp", "udp", "conntrack", "comment", "limit", "multiport", "addrtype", "odd", "mark", "recent", "u32"}
		return rules.Match{Name: names[d.n(len(names))], Rev: uint32(d.n(4)), Info: d.bytes()}
	case 35:
		names := []string{"DNAT", "SNAT", "MASQUERADE", "REJECT", "LOG", "MARK", "CT", "odd", "TCPMSS", "NFQUEUE"}
		return rules.Target{Name: names[d.n(len(names))], Rev: uint32(d.n(4)), Info: d.bytes()}
	}
	return rules.Unknown{Name: d.name()}
}

// ruleset draws one with a base chain at each hook, and chains that others jump to.
func (d *draw) ruleset() *ruleset {
	rs := &ruleset{}
	for range 1 + d.n(3) {
		t := rs.table([]rules.Family{
			unix.NFPROTO_INET, unix.NFPROTO_IPV4, unix.NFPROTO_IPV6, unix.NFPROTO_BRIDGE, unix.NFPROTO_ARP, unix.NFPROTO_NETDEV,
		}[d.n(6)], "t")
		t.Legacy = d.n(8) == 1
		for _, name := range []string{"a", "b", "c"} {
			s := rules.Set{
				Name: name, KeyLen: uint32(d.n(20)), Flags: []uint32{0, unix.NFT_SET_INTERVAL}[d.n(2)], DataLen: uint32(d.n(20)),
				FieldLens: [][]int{nil, {4}, {2, 2}, {4, 16}}[d.n(4)],
			}
			var list []rules.Element
			for range d.n(6) {
				e := rules.Element{
					Key: d.bytes(), Data: d.bytes(), IntervalEnd: d.n(4) == 1, CatchAll: d.n(9) == 1, Conditional: d.n(9) == 1, Object: d.name(),
				}
				if d.bool() {
					e.Decision = d.decision()
				}
				if d.bool() {
					e.End = d.bytes()
				}
				list = append(list, e)
			}
			rs.set(t, s, list...)
		}
		for _, name := range []string{"a", "b", "c", "d"} {
			var list [][]rules.Expr
			for range d.n(8) {
				var x []rules.Expr
				for range d.n(5) {
					x = append(x, d.expr())
				}
				list = append(list, x)
			}
			c := chain(t, name, list...)
			if name < "c" {
				c.Base = &rules.Base{
					Type: []string{"filter", "nat", "route"}[d.n(3)], Hook: uint32(d.n(6)), Priority: int32(d.n(6)*100) - 300,
					Policy: int32(d.n(2)), Devices: []string{"eth0"},
				}
			}
		}
	}
	return rs
}

func (d *draw) packet() Packet {
	p := syn()
	p.Proto = []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, 0, 255}[d.n(5)]
	switch d.n(5) {
	case 1:
		p = six(p)
	case 2:
		p.EtherType = unix.ETH_P_ARP
	case 3:
		p.EtherType = uint16(d.u32())
	case 4:
		p.Src, p.Dst = netip.Addr{}, netip.MustParseAddr("::1")
	}
	p.SrcPort, p.Len, p.TTL, p.Local = uint16(d.n(2)*5000), d.n(3)*50, uint8(d.n(3)), d.bool()
	p.CT = Conn{Seen: d.bool(), Untracked: d.n(4) == 1, Reply: d.bool(), State: []uint32{0, New, Established, Related, Invalid}[d.n(5)], Status: d.u32()}
	if d.bool() {
		p.Out = Interface{Index: 3, Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}
	}
	return p
}

// Whatever the rules are, Run ends, and says something: one outcome that is certain or not clear, or several
// that depend on something.
func runDrawn(t *testing.T, data []byte) {
	t.Helper()
	d := &draw{data}
	p, h := d.packet(), Hook(d.n(16))
	rs := d.ruleset()
	rs.facts.fib = func(*Packet, uint32, uint32, uint32) ([]byte, error) { return d.bytes(), nil }
	start := time.Now()
	out, err := Run(&rs.Ruleset, h, p, &rs.facts)
	if err != nil {
		t.Fatal(err)
	}
	if len(out) == 0 {
		t.Fatal("no outcome")
	}
	for _, o := range out {
		if (len(out) == 1 && o.End != Unclear) != (len(o.If) == 0) {
			t.Fatalf("%+v", out)
		}
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Fatal(took)
	}
}

func FuzzRun(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) { runDrawn(t, data) })
}

func TestRunDrawn(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		data := make([]byte, 100+r.IntN(3000))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		runDrawn(t, data)
	}
}
