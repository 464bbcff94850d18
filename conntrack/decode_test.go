// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

func decode(b []byte) (Flow, bool, error) {
	var e entry
	ok, err := decodeEntry(b, &e)
	if err != nil || !ok {
		return Flow{}, ok, err
	}
	f, err := e.flow()
	return f, ok, err
}

func dnatted() Flow {
	return Flow{
		Proto: unix.IPPROTO_TCP, ID: 0x01020304,
		Status:   StatusSeenReply | StatusConfirmed | StatusDNAT,
		Src:      netip.MustParseAddrPort("198.51.100.7:51000"),
		Dst:      netip.MustParseAddrPort("192.0.2.1:8080"),
		ReplySrc: netip.MustParseAddrPort("172.17.0.2:80"),
		ReplyDst: netip.MustParseAddrPort("198.51.100.7:51000"),
	}
}

func TestDecodeFlow(t *testing.T) {
	zoned := dnatted()
	zoned.Zone = 0x0102
	for _, want := range []Flow{
		dnatted(),
		zoned,
		plain(unix.IPPROTO_UDP, "[fe80::1]:1", "[ff02::fb]:5353"),
		plain(unix.IPPROTO_UDP, "[::ffff:1.2.3.4]:1", "[::1]:65535"),
	} {
		got, ok, err := decode(entryPayload(want))
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, want, got)
	}
	require.Equal(t, "tcp 198.51.100.7:51000->192.0.2.1:8080, reply 172.17.0.2:80->198.51.100.7:51000", dnatted().String())
}

// icmpEntry is an entry of a protocol without ports.
func icmpEntry() []byte {
	tuple := func(b []byte, typ uint16) []byte {
		nest := len(b)
		b = beginNest(b, typ)
		ip := len(b)
		b = beginNest(b, ctaTupleIP)
		b = nlwire.AppendAttr(b, ctaIPv4Src, 192, 0, 2, 9)
		b = nlwire.AppendAttr(b, ctaIPv4Dst, 192, 0, 2, 1)
		b = nlwire.CloseAttr(b, ip)
		proto := len(b)
		b = beginNest(b, ctaTupleProto)
		b = nlwire.AppendAttr(b, ctaProtoNum, unix.IPPROTO_ICMP)
		b = nlwire.AppendAttr(b, 4, 0x12, 0x34) // CTA_PROTO_ICMP_ID
		b = nlwire.AppendAttr(b, 5, 8)          // CTA_PROTO_ICMP_TYPE
		b = nlwire.AppendAttr(b, 6, 0)          // CTA_PROTO_ICMP_CODE
		b = nlwire.CloseAttr(b, proto)
		b = nlwire.AppendAttr(b, ctaTupleZone, 0, 9)
		return nlwire.CloseAttr(b, nest)
	}
	b := []byte{unix.AF_INET, 0, 0, 0}
	b = tuple(tuple(b, ctaTupleOrig), ctaTupleReply)
	b = nlwire.AppendAttr(b, ctaStatus, 0, 0, 0, 8)
	return nlwire.AppendAttr(b, ctaID, 0, 0, 0, 1)
}

func TestDecodeOther(t *testing.T) {
	f, ok, err := decode(icmpEntry())
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, uint8(unix.IPPROTO_ICMP), f.Proto)
	require.Equal(t, netip.MustParseAddrPort("192.0.2.1:0"), f.Dst)
	require.Equal(t, uint16(9), f.Zone) // of the original direction alone

	// A family that is not IP is none of ours, whatever is in it.
	_, ok, err = decode([]byte{unix.AF_UNIX, 0, 0, 0, 1})
	require.NoError(t, err)
	require.False(t, ok)
}

func TestDecodeMalformed(t *testing.T) {
	good := entryPayload(dnatted())
	// attr rebuilds the entry with one top-level attribute changed; nil drops it.
	attr := func(typ uint16, data []byte) []byte {
		b := slices.Clone(good[:nlwire.NetfilterHeader])
		for rest := good[nlwire.NetfilterHeader:]; len(rest) > 0; {
			at, old, next, err := nextAttr(rest)
			require.NoError(t, err)
			switch {
			case at != typ:
				b = nlwire.AppendAttr(b, at, old...)
			case data != nil:
				b = nlwire.AppendAttr(b, at, data...)
			}
			rest = next
		}
		return b
	}
	nest := func(typ uint16, data ...byte) []byte { return nlwire.AppendAttr(nil, typ, data...) }
	ip := nest(ctaTupleIP, append(nest(ctaIPv4Src, 1, 2, 3, 4), nest(ctaIPv4Dst, 1, 2, 3, 4)...)...)
	proto := nest(ctaTupleProto, nest(ctaProtoNum, 6)...)
	for name, b := range map[string][]byte{
		"empty":                 {},
		"header cut short":      good[:3],
		"nothing but header":    good[:4],
		"cut in an attribute":   good[:len(good)-6],
		"loose bytes at end":    append(slices.Clone(good), 0, 0),
		"attribute length 0":    append(slices.Clone(good), 0, 0, 0, 0),
		"attribute too long":    append(slices.Clone(good), 0xff, 0xff, 0, 0),
		"no original tuple":     attr(ctaTupleOrig, nil),
		"empty original tuple":  attr(ctaTupleOrig, []byte{}),
		"no reply tuple":        attr(ctaTupleReply, nil),
		"no id":                 attr(ctaID, nil),
		"short id":              attr(ctaID, []byte{1, 2}),
		"no status":             attr(ctaStatus, nil),
		"long status":           attr(ctaStatus, make([]byte, 8)),
		"tuple without address": attr(ctaTupleOrig, proto),
		"tuple without proto":   attr(ctaTupleOrig, ip),
		"proto without number":  attr(ctaTupleOrig, append(slices.Clone(ip), nest(ctaTupleProto)...)),
		"wide proto":            attr(ctaTupleReply, append(slices.Clone(ip), nest(ctaTupleProto, nest(ctaProtoNum, 0, 6)...)...)),
		"short port":            attr(ctaTupleOrig, append(slices.Clone(ip), nest(ctaTupleProto, append(nest(ctaProtoNum, 6), nest(ctaProtoDstPort, 1)...)...)...)),
		"short address":         attr(ctaTupleOrig, append(nest(ctaTupleIP, append(nest(ctaIPv4Src, 1, 2, 3), nest(ctaIPv4Dst, 1, 2, 3, 4)...)...), proto...)),
		"one address":           attr(ctaTupleOrig, append(nest(ctaTupleIP, nest(ctaIPv4Src, 1, 2, 3, 4)...), proto...)),
		"tuple with loose end":  attr(ctaTupleReply, append(append(slices.Clone(ip), proto...), 1)),
		"short tuple zone":      attr(ctaTupleOrig, append(append(slices.Clone(ip), proto...), nest(ctaTupleZone, 1)...)),
		"address of wrong kind": append([]byte{unix.AF_INET6}, good[1:]...),
		"wide zone":             append(slices.Clone(good), nest(ctaZone, 0, 0, 0, 1)...),
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := decode(b)
			require.ErrorIs(t, err, nlwire.ErrMalformed)
		})
	}
	_, ok, err := decode(attr(ctaTupleOrig, append(slices.Clone(ip), proto...)))
	require.NoError(t, err) // the parts are good in themselves
	require.True(t, ok)
}

func TestDecodeStats(t *testing.T) {
	n, limit, err := decodeStats(statsPayload(7, 262144))
	require.NoError(t, err)
	require.Equal(t, []uint32{7, 262144}, []uint32{n, limit})
	_, limit, err = decodeStats(nlwire.AppendAttr(make([]byte, nlwire.NetfilterHeader), ctaStatsGlobalEntries, 0, 0, 0, 7))
	require.NoError(t, err) // before 4.18
	require.Zero(t, limit)
	for _, b := range [][]byte{
		nil,
		make([]byte, nlwire.NetfilterHeader),
		append(statsPayload(7, 9), 1),
		nlwire.AppendAttr(make([]byte, nlwire.NetfilterHeader), ctaStatsGlobalEntries, 0, 7),
	} {
		_, _, err := decodeStats(b)
		require.ErrorIs(t, err, nlwire.ErrMalformed)
	}
}

// text is that of an answer.
func text(t *testing.T, m nlwire.Message) string {
	t.Helper()
	a, err := m.Answer()
	require.NoError(t, err)
	return a.Text
}

func TestAckText(t *testing.T) {
	parse := func(b []byte) nlwire.Message {
		m, _, err := nextMessage(b)
		require.NoError(t, err)
		return m
	}
	m := parse(ackWithText(1, unix.EINVAL, "what is wrong"))
	require.Equal(t, "what is wrong", text(t, m))

	// The request in full comes before the text, where it is not capped.
	b := errnoPayload(unix.EINVAL)
	req := filteredDumpRequest(unix.AF_INET, Filter{Proto: 17, FirstPort: 5, LastPort: 5})
	b = append(b, req...)
	b = nlwire.AppendAttr(b, unix.NLMSGERR_ATTR_OFFS, 0, 0, 0, 4)
	b = nlwire.AppendAttr(b, unix.NLMSGERR_ATTR_MSG, []byte("there\x00")...)
	full := parse(datagram(1, unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS, b))
	require.Equal(t, "there", text(t, full))

	// None, or none that can be read: no text, and no harm.
	require.Empty(t, text(t, parse(ack(1, unix.EINVAL))))
	m.Payload = m.Payload[:len(m.Payload)-9]
	require.Empty(t, text(t, m))
	m.Payload = m.Payload[:6]
	require.Empty(t, text(t, m))
	binary.NativeEndian.PutUint32(full.Payload[4:], 0xffff_ffff)
	require.Empty(t, text(t, full))
}

// Decoding makes no garbage: a table of any size costs the same memory.
func TestDecodeAllocates(t *testing.T) {
	b := entryPayload(dnatted())
	filter, err := Filter{Proto: 6, FirstPort: 8080}.normal()
	require.NoError(t, err)
	var e entry
	buf := make([]byte, 0, 4096)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		ok, err := decodeEntry(b, &e)
		if !ok || err != nil || !filter.matches(e.origTuple, e.flags()) {
			panic("no match")
		}
		if _, err := e.flow(); err != nil {
			panic(err)
		}
		buf = appendDelete(buf[:0], &e)
	}))
}

// FuzzDecode feeds the decoders with anything. Whatever passes can be deleted,
// and the request for it names the same entry.
func FuzzDecode(f *testing.F) {
	f.Add(entryPayload(dnatted()))
	f.Add(entryPayload(plain(unix.IPPROTO_UDP, "[2001:db8::1]:4000", "[2001:db8::2]:53")))
	f.Add(icmpEntry())
	f.Add(statsPayload(1, 2))
	f.Add(datagram(1, msgNew, 0, entryPayload(dnatted())))
	f.Add(ackWithText(1, unix.EPERM, "text"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _ = decodeStats(b)
		for rest := b; len(rest) > 0; {
			m, next, err := nextMessage(rest)
			if err != nil {
				break
			}
			require.Less(t, len(next), len(rest))
			_, _ = m.Answer()
			rest = next
		}
		var e entry
		ok, err := decodeEntry(b, &e)
		if err != nil || !ok {
			return
		}
		require.NotEmpty(t, e.orig)
		fl, err := e.flow()
		if err != nil {
			return
		}
		require.True(t, fl.Src.IsValid() && fl.Dst.IsValid() && fl.ReplySrc.IsValid() && fl.ReplyDst.IsValid())
		m, rest, err := nextMessage(appendDelete(nil, &e))
		require.NoError(t, err)
		require.Empty(t, rest)
		var again entry
		ok, err = decodeEntry(nlwire.AppendAttr(slices.Clone(m.Payload), ctaStatus, 0, 0, 0, 0), &again)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, e.origTuple, again.origTuple)
		require.Equal(t, e.id, again.id)
		require.Equal(t, e.zone, again.zone)
	})
}
