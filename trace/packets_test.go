// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf"
	"github.com/nftnat/nftnat/internal/nlwire"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/trace/internal/marking"
)

// fakeKernel has names for what the recorded events name.
type fakeKernel struct{ ports []uint16 }

func (*fakeKernel) refresh(context.Context) {}

func (*fakeKernel) hook(_ uint8, _, chain string) string {
	return map[string]string{"pre": "prerouting", "passing": "forward"}[chain]
}

func (*fakeKernel) rule(_ uint8, _, chain string, handle uint64) string {
	return fmt.Sprintf("rule %d of %s", handle, chain)
}

func (*fakeKernel) link(index int) string {
	return map[int]string{0: "", 1: "lo", 2: "br0", 3: "port1", 4: "lan0"}[index]
}

func (*fakeKernel) neighbour(string, netip.Addr) string { return "FAILED" }

func (*fakeKernel) flowtables() []string {
	return []string{"flowtable inet fw4 ft, which forwards past the rules"}
}

func (*fakeKernel) function(address uint64) string {
	return map[uint64]string{1: "ip_error", 2: "sk_stream_kill_queues"}[address]
}

func (k *fakeKernel) translated(_ uint8, port uint16) { k.ports = append(k.ports, port) }

const ownTable = marking.NamePrefix + "1"

// newFake returns packets of TCP port 8080 of any address, and what they tell.
func newFake() (*packets, *fakeKernel, *[]Event) {
	var events []Event
	k := &fakeKernel{}
	ps := newPackets(k, ownTable, netip.Addr{})
	ps.notify = func(e Event) error { events = append(events, e); return nil }
	ps.local = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8:1::1/128")}
	ps.setTargets([]marking.Target{{Proto: unix.IPPROTO_TCP, Port: 8080}, {Proto: unix.IPPROTO_TCP, V6: true, Port: 8080}})
	return ps, k, &events
}

func lines(events []Event) (text []string) {
	for _, e := range events {
		text = append(text, Line(e))
	}
	return text
}

// recorded reads events of the kernel, in the byte order of this machine.
func recorded(t *testing.T) (list []nlwire.Message) {
	t.Helper()
	f, err := os.Open("testdata/events.txt")
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	unhex := func(text string) []byte {
		b, err := hex.DecodeString(text)
		require.NoError(t, err)
		return b
	}
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		words := strings.Fields(s.Text())
		family, err := strconv.Atoi(words[0])
		require.NoError(t, err)
		b := []byte{byte(family), 0, 0, 0}
		for _, word := range words[1:] {
			parts := strings.Split(word, ",")
			typ, value, _ := strings.Cut(parts[0], "=")
			n, err := strconv.Atoi(typ)
			require.NoError(t, err)
			payload := unhex(value)
			for _, part := range parts[1:] {
				typ, value, _ := strings.Cut(part, "=")
				n, err := strconv.Atoi(typ)
				require.NoError(t, err)
				payload = nlwire.AppendAttr(payload, uint16(n), unhex(value)...)
			}
			b = nlwire.AppendAttr(b, uint16(n), payload...)
		}
		list = append(list, nlwire.Message{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_TRACE, Payload: b})
	}
	return list
}

// TestRecorded: events of the kernel become lines.
func TestRecorded(t *testing.T) {
	ps, k, events := newFake()
	now := time.Now()
	for _, m := range recorded(t) {
		e, ok := decodeMessage(m)
		require.True(t, ok)
		ps.event(context.Background(), e, now)
	}
	ps.end(now.Add(time.Second))
	require.Equal(t, []string{
		"#1 tcp syn 192.0.2.2:54538 > 192.0.2.1:8080 from lan0",
		"#1   prerouting  inet publish pre: rule 3 of pre",
		"#1   forward     inet corpwall passing: rule 2 of passing",
		"#1   forward     inet corpwall passing: policy drop",
		"#2 tcp syn [2001:db8:1::2]:53662 > [2001:db8:1::1]:8080 from lan0",
		"#2   prerouting  inet publish pre: rule 5 of pre",
		"#2   forward     inet corpwall passing: rule 2 of passing",
		"#2   forward     inet corpwall passing: rule 3 of passing",
		"#3 answer tcp syn,ack [fd00:30::2]:80 > [2001:db8:1::2]:53662 from port1",
		"#3   forward     inet corpwall passing: rule 3 of passing",
		"#1 dropped in forward by inet corpwall passing: policy drop",
		"#2 left by br0 to [fd00:30::2]:80",
		"#3 left by lan0 to [2001:db8:1::2]:53662 from [2001:db8:1::1]:8080",
	}, lines(*events))
	require.Contains(t, k.ports, uint16(80))
	require.Empty(t, ps.open)
	require.Empty(t, ps.byID)
}

// TestDecodeCutShort: an event that is cut short is none, and nothing is read past its end.
func TestDecodeCutShort(t *testing.T) {
	for _, m := range recorded(t) {
		for n := range len(m.Payload) {
			decodeMessage(nlwire.Message{Type: m.Type, Payload: m.Payload[:n]})
		}
		m.Type = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE
		_, ok := decodeMessage(m)
		require.False(t, ok)
	}
}

// syn is the first packet of a connection to port 8080.
func syn(port uint16, seq uint32) header {
	return header{
		proto: unix.IPPROTO_TCP, flags: 2, id: [2]uint32{seq, 0},
		src: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), port), dst: netip.MustParseAddrPort("192.0.2.1:8080"),
	}
}

func mark(id uint32, h header) message {
	return message{id: id, family: unix.NFPROTO_INET, typ: unix.NFT_TRACETYPE_RULE, table: ownTable, chain: marking.MarkChain, handle: 1, code: unix.NFT_CONTINUE, iif: 4, header: h, known: true}
}

// at is the event that a packet has come to the end of an own chain.
func at(id uint32, chain string, h header) message {
	return message{id: id, family: unix.NFPROTO_INET, typ: unix.NFT_TRACETYPE_POLICY, table: ownTable, chain: chain, code: nfAcceptForTest, iif: 4, header: h, known: true}
}

const nfAcceptForTest = 1

// TestGrouping: an id is used again, a copy has another one, and events of others are left out.
func TestGrouping(t *testing.T) {
	ps, _, events := newFake()
	ctx, now := context.Background(), time.Now()
	a, b := syn(1000, 1), syn(1001, 2)
	ps.event(ctx, at(9, "prerouting-first", syn(1002, 3)), now) // of another program
	ps.event(ctx, mark(1, a), now)
	ps.event(ctx, at(1, "prerouting-last", a), now)
	ps.event(ctx, mark(1, b), now) // used again
	ps.event(ctx, at(1, "prerouting-last", b), now)
	translated := b
	translated.dst = netip.MustParseAddrPort("172.30.0.2:80")
	ps.event(ctx, at(1, "forward-first", translated), now)
	ps.event(ctx, at(2, "forward-last", translated), now) // a copy
	last := at(2, "postrouting-last", translated)
	last.oif = 2
	ps.event(ctx, last, now)
	other := at(2, "publish", translated)
	other.table = marking.NamePrefix + "2"
	ps.event(ctx, other, now) // of another trace
	ps.event(ctx, mark(3, syn(1005, 6)), now)
	ps.event(ctx, at(3, "ingress-1", syn(1005, 6)), now)
	ps.end(now.Add(quiet))
	require.Len(t, *events, 4, "packets are not ended before their time")
	ps.end(now.Add(quiet + 1))
	ps.tellMissing(now.Add(answerWait))
	ps.tellMissing(now.Add(2 * answerWait))
	require.Equal(t, []string{
		"#1 tcp syn 192.0.2.2:1000 > 192.0.2.1:8080 from lan0",
		"#1 lost in routing, behind prerouting: forwarding is off, there is no route, or the reverse path filter refuses it",
		"#2 tcp syn 192.0.2.2:1001 > 192.0.2.1:8080 from lan0",
		"#3 tcp syn 192.0.2.2:1005 > 192.0.2.1:8080 from lan0",
		"#2 left by br0 to 172.30.0.2:80",
		"#3 lost in ingress, by what is in no trace (flowtable inet fw4 ft, which forwards past the rules)",
		"#2 no answer from 172.30.0.2:80 has come: its neighbour entry of br0 is FAILED",
	}, lines(*events))
}

// packetOf is what the kernel has of a packet.
func packetOf(h header) []byte {
	b := make([]byte, 40)
	b[0], b[9] = 0x45, h.proto
	src, dst := h.src.Addr().As4(), h.dst.Addr().As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[20:], h.src.Port())
	binary.BigEndian.PutUint16(b[22:], h.dst.Port())
	binary.BigEndian.PutUint32(b[24:], h.id[0])
	b[33] = h.flags
	return b
}

// TestDrops: what the kernel dropped is found among the packets, or told by itself.
func TestDrops(t *testing.T) {
	ps, _, events := newFake()
	ctx, now := context.Background(), time.Now()
	drop := func(h header, reason string, address uint64) {
		ps.dropped(bpf.Drop{Reason: reason, Address: address, Interface: 4, Headers: packetOf(h)}, now)
	}
	lost, left, delivered, unseen := syn(1000, 1), syn(1001, 2), syn(1002, 3), syn(1003, 4)
	for i, h := range []header{lost, left, delivered} {
		ps.event(ctx, mark(uint32(i), h), now)
	}
	ps.event(ctx, at(0, "prerouting-last", lost), now)
	drop(lost, "IP_INADDRERRORS", 1)
	last := at(1, "postrouting-last", left)
	last.oif = 2
	ps.event(ctx, last, now)
	ps.event(ctx, at(2, "input-last", delivered), now)
	drop(delivered, "NOT_SPECIFIED", 2)
	drop(delivered, "QUEUE_PURGE", 1)
	drop(unseen, "TC_INGRESS", 0)
	other := syn(1004, 5)
	other.dst = netip.MustParseAddrPort("192.0.2.1:22")
	drop(other, "NETFILTER_DROP", 0)
	ps.matchDrops(now)
	require.Len(t, *events, 3, "the events of a packet may be behind")
	now = now.Add(eventDelay)
	ps.matchDrops(now)
	now = now.Add(quiet)
	ps.end(now)
	drop(left, "NEIGH_FAILED", 0)
	ps.matchDrops(now.Add(eventDelay))
	require.Equal(t, []string{
		"#1 tcp syn 192.0.2.2:1000 > 192.0.2.1:8080 from lan0",
		"#2 tcp syn 192.0.2.2:1001 > 192.0.2.1:8080 from lan0",
		"#3 tcp syn 192.0.2.2:1002 > 192.0.2.1:8080 from lan0",
		"#4 tcp syn 192.0.2.2:1003 > 192.0.2.1:8080 from lan0",
		"#4 dropped, and seen by no rule: TC_INGRESS of lan0",
		"#1 dropped in routing, behind prerouting: IP_INADDRERRORS in ip_error of lan0",
		"#2 left by br0 to 192.0.2.1:8080",
		"#3 delivered to this host at 192.0.2.1:8080",
		"#2 then dropped: NEIGH_FAILED of lan0",
	}, lines(*events))
}

// TestBounds: packets, steps and drops that have no room are counted.
func TestBounds(t *testing.T) {
	ps, _, events := newFake()
	ctx, now := context.Background(), time.Now()
	for i := range uint32(mostOpen + 10) {
		ps.event(ctx, mark(i, syn(uint16(i), i)), now)
	}
	require.EqualValues(t, 10, ps.full)
	step := message{id: 0, family: unix.NFPROTO_INET, typ: unix.NFT_TRACETYPE_RULE, table: "t", chain: "c", handle: 1, code: unix.NFT_CONTINUE}
	for range mostSteps + 5 {
		ps.event(ctx, step, now)
	}
	for i := range uint32(mostDropped + 10) {
		ps.dropped(bpf.Drop{Headers: packetOf(syn(5000, 1<<20+i))}, now)
	}
	require.EqualValues(t, 10, ps.unseen)
	ps.matchDrops(now.Add(eventDelay))
	require.EqualValues(t, 10+mostDropped-mostUnseen, ps.unseen)
	ps.end(now.Add(time.Hour))
	require.Len(t, ps.recent, mostRecent)
	more := 0
	for _, e := range *events {
		if p, ok := e.(Packet); ok {
			more += p.More
		}
	}
	require.Equal(t, 5, more)
}

// TestSummary: what is said of the places where a packet can end.
func TestSummary(t *testing.T) {
	for _, tt := range []struct {
		hook, end string
		out       string
		fate      Fate
		by        string
		want      string
		wantFate  Fate
	}{
		{"prerouting", "first", "", "", "", "lost in prerouting, by what is in no trace (connection tracking, if its table is full; iptables-legacy raw)", Lost},
		{"forward", "last", "br0", "", "", "lost by the kernel, behind forward", Lost},
		{"output", "last", "br0", "", "", "lost behind output", Lost},
		{"postrouting", "last", "lo", "", "", "left by lo, to this host", Left},
		{"egress", "", "br0", "", "", "left by br0 to 192.0.2.1:8080", Left},
		{"forward", "", "br0", Queued, "inet t c: queue to 1", "given to a program in forward by inet t c: queue to 1", Queued},
		{"postrouting", "last", "br0", Queued, "inet t c: queue to 1", "left by br0 to 192.0.2.1:8080", Left},
	} {
		p := &packet{first: syn(1, 1), now: syn(1, 1), ended: tt.end}
		p.Hook, p.Out, p.Fate, p.By = tt.hook, tt.out, tt.fate, tt.by
		summarize(p, []string{"iptables-legacy raw"})
		require.Equal(t, tt.want, p.Text)
		require.Equal(t, tt.wantFate, p.Fate)
	}
}

func TestParseHeader(t *testing.T) {
	for n := range 60 {
		b := make([]byte, n)
		for _, version := range []byte{0x45, 0x4f, 0x60, 0x00} {
			if n > 0 {
				b[0] = version
			}
			parseHeader(b, nil)
			parseHeader(b, []byte{})
		}
	}
	b := make([]byte, 44)
	b[0], b[6] = 0x60, unix.IPPROTO_ICMPV6
	h, ok := parseHeader(b, []byte{1, 4})
	require.True(t, ok)
	require.Equal(t, "type 1 code 4", flagsText(h))
	require.Equal(t, "icmpv6", protoText(h.proto))
	require.Equal(t, "::", address(h.src))
}

// TestDocument: each event is an object with a type, and the packet's fields beside it.
func TestDocument(t *testing.T) {
	ps, _, events := newFake()
	now := time.Unix(0, 0).UTC()
	ps.event(context.Background(), mark(1, syn(1000, 1)), now)
	ps.event(context.Background(), message{id: 1, family: unix.NFPROTO_INET, typ: unix.NFT_TRACETYPE_RULE, table: "t", chain: "passing", handle: 7, code: unix.NFT_JUMP, target: "x"}, now)
	ps.end(now.Add(time.Hour))
	ps.send(Later{Time: now, Number: 1, Text: "then dropped"})
	ps.send(Note{Time: now, Text: "n"})
	var text []string
	for _, e := range *events {
		b, err := json.Marshal(Document(e))
		require.NoError(t, err)
		text = append(text, string(b))
	}
	const at, packet = `"time":"1970-01-01T00:00:00Z"`, `"packet":1,"proto":"tcp","flags":"syn","src":"192.0.2.2:1000","dst":"192.0.2.1:8080","in":"lan0","answer":false`
	require.Equal(t, []string{
		`{"type":"begin",` + at + `,` + packet + `}`,
		`{"type":"step",` + at + `,"packet":1,"hook":"forward","family":"inet","table":"t","chain":"passing","handle":7,"text":"rule 7 of passing","verdict":"jump x"}`,
		`{"type":"packet",` + at + `,` + packet + `,"src_after":"192.0.2.2:1000","dst_after":"192.0.2.1:8080","fate":"lost","hook":"forward","text":"lost in forward, by what is in no trace"}`,
		`{"type":"later",` + at + `,"packet":1,"text":"then dropped"}`,
		`{"type":"note",` + at + `,"text":"n"}`,
	}, text)
}

// TestLedTargets: the backends of what is asked for, by ports.
func TestLedTargets(t *testing.T) {
	m := func(text string) nat.Mapping {
		m, err := nat.ParseMappingText(text)
		require.NoError(t, err)
		return m
	}
	led := func(addr string, ports ...uint16) (targets []marking.Target) {
		for _, port := range ports {
			targets = append(targets, marking.Target{Proto: unix.IPPROTO_TCP, Addr: netip.MustParseAddr(addr), Port: port, FromHost: true})
		}
		return targets
	}
	noProxy := m("83->10.0.0.4:8")
	noProxy.NoProxy = true
	published := []nat.Mapping{m("80->10.0.0.1:8080"), m("[::]:90-99->[fd00::2]:190-199"), m("192.0.2.1:81->10.0.0.3:8"), m("127.0.0.1:82->10.0.0.3:82"), noProxy}
	require.Len(t, ledTargets(nil, published), 12)
	for text, want := range map[string][]marking.Target{
		"80": led("10.0.0.1", 8080), "127.0.0.1:80": led("10.0.0.1", 8080), "98-120": led("fd00::2", 198, 199), "79-91": append(led("10.0.0.1", 8080), append(led("fd00::2", 190, 191), led("10.0.0.3", 82)...)...),
		"192.0.2.1:80": nil, "81": nil, "83": nil, "100": nil,
	} {
		require.Equal(t, want, ledTargets(frontend(t, nat.TCP, text), published), text)
	}
	require.Empty(t, ledTargets(frontend(t, nat.UDP, "80"), published))
}
