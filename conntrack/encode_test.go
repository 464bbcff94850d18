// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// attrs reads a list of attributes into a map, and checks that it is whole and
// that none is there twice.
func attrs(t *testing.T, b []byte) map[uint16][]byte {
	t.Helper()
	all := make(map[uint16][]byte)
	for len(b) > 0 {
		require.Zero(t, len(b)%unix.NLA_ALIGNTO)
		nested := binary.NativeEndian.Uint16(b[2:])&nlwire.Nested != 0
		typ, data, rest, err := nextAttr(b)
		require.NoError(t, err)
		require.NotContains(t, all, typ)
		if nested {
			attrs(t, data)
		}
		all[typ] = data
		b = rest
	}
	return all
}

// What is asked of the kernel is never more than it can be trusted with.
func TestFilteredDump(t *testing.T) {
	v4 := netip.MustParseAddr("192.0.2.1")
	v6 := netip.MustParseAddr("2001:db8::1")
	type request struct {
		proto uint8
		addr  string // empty: not asked for
		port  uint16 // 0: not asked for
		// src and srcPort are the same of the source.
		src     string
		srcPort uint16
	}
	for _, tt := range []struct {
		name   string
		family uint8
		filter Filter
		want   request
	}{
		{"port", unix.AF_INET, Filter{Proto: 17, FirstPort: 53}, request{proto: 17, addr: "", port: 53}},
		{"port, IPv6", unix.AF_INET6, Filter{Proto: 6, FirstPort: 443, LastPort: 443}, request{proto: 6, addr: "", port: 443}},
		{"address and port", unix.AF_INET, Filter{Proto: 6, Dst: v4, FirstPort: 8080}, request{proto: 6, addr: "192.0.2.1", port: 8080}},
		{"IPv6 addresses are compared wrongly", unix.AF_INET6, Filter{Proto: 6, Dst: v6, FirstPort: 8080}, request{proto: 6, addr: "", port: 8080}},
		{"any address", unix.AF_INET, Filter{Proto: 6, Dst: netip.IPv4Unspecified(), FirstPort: 8080}, request{proto: 6, addr: "", port: 8080}},
		{"range", unix.AF_INET, Filter{Proto: 17, Dst: v4, FirstPort: 1, LastPort: 2}, request{proto: 17, addr: "192.0.2.1", port: 0}},
		{"no port", unix.AF_INET, Filter{Proto: 17, Dst: v4}, request{proto: 17, addr: "192.0.2.1", port: 0}},
		{"protocol without ports", unix.AF_INET, Filter{Proto: 1}, request{proto: 1, addr: "", port: 0}},
		{"source", unix.AF_INET, Filter{Proto: 17, Src: v4, SrcPort: 53}, request{proto: 17, src: "192.0.2.1", srcPort: 53}},
		{"source and address", unix.AF_INET, Filter{Proto: 6, Dst: v4, FirstPort: 80, Src: v4, SrcPort: 53}, request{6, "192.0.2.1", 80, "192.0.2.1", 53}},
		{"IPv6 source", unix.AF_INET6, Filter{Proto: 17, Src: v6, SrcPort: 53}, request{proto: 17, srcPort: 53}},
		{"source of a protocol without ports", unix.AF_INET, Filter{Proto: 1, Src: v4, SrcPort: 53}, request{proto: 1, src: "192.0.2.1"}},
		{"unanswered", unix.AF_INET, Filter{Proto: 6, FirstPort: 80, Unanswered: true}, request{proto: 6, addr: "", port: 80}},
		{"translated", unix.AF_INET, Filter{Proto: 6, Translated: true}, request{proto: 6}},
		{"protocol whose ports are not compared", unix.AF_INET, Filter{Proto: 132, FirstPort: 7}, request{proto: 132, addr: "", port: 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := tt.filter.normal()
			require.NoError(t, err)
			m, rest, err := nextMessage(filteredDumpRequest(tt.family, f))
			require.NoError(t, err)
			require.Empty(t, rest)
			require.Equal(t, uint16(msgGet), m.Type)
			require.Equal(t, uint16(unix.NLM_F_REQUEST|unix.NLM_F_DUMP), m.Flags)
			require.Equal(t, []byte{tt.family, 0, 0, 0}, m.Payload[:nlwire.NetfilterHeader])

			all := attrs(t, m.Payload[nlwire.NetfilterHeader:])
			switch {
			case tt.filter.Unanswered:
				require.Len(t, all, 4)
				require.Equal(t, []byte{0, 0, 0, 0}, all[ctaStatus])
				require.Equal(t, []byte{0, 0, 0, 2}, all[ctaStatusMask])
			case tt.filter.Translated:
				require.Len(t, all, 4)
				require.Equal(t, []byte{0, 0, 0, 32}, all[ctaStatus])
				require.Equal(t, []byte{0, 0, 0, 32}, all[ctaStatusMask])
			default:
				require.Len(t, all, 2)
			}
			flags := binary.NativeEndian.Uint32(attrs(t, all[ctaFilter])[ctaFilterOrigFlags])
			orig := attrs(t, all[ctaTupleOrig])
			proto := attrs(t, orig[ctaTupleProto])
			got := request{proto: proto[ctaProtoNum][0]}
			want := uint32(1 << 3)
			ip := attrs(t, orig[ctaTupleIP])
			if dst, ok := ip[ctaIPv4Dst]; ok {
				want |= 1 << 1
				got.addr = netip.AddrFrom4([4]byte(dst)).String()
			}
			if src, ok := ip[ctaIPv4Src]; ok {
				want |= 1 << 0
				got.src = netip.AddrFrom4([4]byte(src)).String()
			}
			if port, ok := proto[ctaProtoSrcPort]; ok {
				want |= 1 << 4
				got.srcPort = binary.BigEndian.Uint16(port)
			}
			if port, ok := proto[ctaProtoDstPort]; ok {
				want |= 1 << 5
				got.port = binary.BigEndian.Uint16(port)
			}
			require.Equal(t, tt.want, got)
			require.Equal(t, want, flags)
		})
	}
}

// Without a protocol the kernel can choose by the status alone, of both families.
func TestDumpByStatus(t *testing.T) {
	m, rest, err := nextMessage(dumpRequest(Filter{Translated: true, Unanswered: true}))
	require.NoError(t, err)
	require.Empty(t, rest)
	require.Equal(t, []byte{unix.AF_UNSPEC, 0, 0, 0}, m.Payload[:nlwire.NetfilterHeader])
	require.Equal(t, map[uint16][]byte{ctaStatus: {0, 0, 0, 32}, ctaStatusMask: {0, 0, 0, 34}}, attrs(t, m.Payload[nlwire.NetfilterHeader:]))
	m, _, err = nextMessage(dumpRequest(Filter{Dst: netip.IPv6Unspecified()}))
	require.NoError(t, err)
	require.Equal(t, []byte{unix.AF_INET6, 0, 0, 0}, m.Payload)
}

// One request byte for byte, on machines of either byte order.
func TestDumpBytes(t *testing.T) {
	var want []byte
	u16 := func(v ...uint16) {
		for _, v := range v {
			want = binary.NativeEndian.AppendUint16(want, v)
		}
	}
	want = binary.NativeEndian.AppendUint32(want, 68)
	u16(0x0101, 0x0301)
	want = append(want, 0, 0, 0, 0, 0, 0, 0, 0) // sequence, port id
	want = append(want, unix.AF_INET, 0, 0, 0)
	u16(36, 0x8001) // CTA_TUPLE_ORIG
	u16(12, 0x8001) // CTA_TUPLE_IP
	u16(8, 2)       // CTA_IP_V4_DST
	want = append(want, 192, 0, 2, 1)
	u16(20, 0x8002, 5, 1) // CTA_TUPLE_PROTO, CTA_PROTO_NUM
	want = append(want, 17, 0, 0, 0)
	u16(6, 3) // CTA_PROTO_DST_PORT
	want = append(want, 0x14, 0xe9, 0, 0)
	u16(12, 0x8019, 8, 1) // CTA_FILTER, CTA_FILTER_ORIG_FLAGS
	want = binary.NativeEndian.AppendUint32(want, 0x2a)
	got := filteredDumpRequest(unix.AF_INET, Filter{Proto: 17, Dst: netip.MustParseAddr("192.0.2.1"), FirstPort: 5353, LastPort: 5353})
	require.Equal(t, want, got)
}

// A delete request repeats what the kernel sent.
func TestDeleteRequest(t *testing.T) {
	f := plain(unix.IPPROTO_UDP, "[2001:db8::9]:4000", "[2001:db8::1]:53")
	f.ID, f.Zone = 0xdeadbeef, 7
	var e entry
	ok, err := decodeEntry(entryPayload(f), &e)
	require.NoError(t, err)
	require.True(t, ok)
	m, rest, err := nextMessage(appendDelete(nil, &e))
	require.NoError(t, err)
	require.Empty(t, rest)
	require.Equal(t, uint16(msgDelete), m.Type)
	require.Equal(t, []byte{unix.AF_INET6, 0, 0, 0}, m.Payload[:nlwire.NetfilterHeader])
	want := attrs(t, entryPayload(f)[nlwire.NetfilterHeader:])
	require.Equal(t, map[uint16][]byte{
		ctaTupleOrig: want[ctaTupleOrig],
		ctaZone:      {0, 7},
		ctaID:        {0xde, 0xad, 0xbe, 0xef},
	}, attrs(t, m.Payload[nlwire.NetfilterHeader:]))
}
