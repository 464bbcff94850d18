// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// fuzzed are the collections that FuzzElement decodes for.
func fuzzed() []Set {
	cs := sample().Sets
	return append(cs,
		Set{Name: "odd", Key: Type{InetService, InetService}, Value: Type{InetService}},
		Set{Name: "long", Key: Type{IPv6Addr, IPv6Addr, IPv6Addr, InetService}, Value: Type{IPv6Addr}, Interval: true},
	)
}

// FuzzElement decodes any bytes as an element of any collection. What is accepted and
// could have been ours encodes to what decodes the same.
func FuzzElement(f *testing.F) {
	for i, c := range fuzzed() {
		f.Add(uint8(i), []byte{})
		if c.Key.isPair() && c.Interval {
			f.Add(uint8(i), c.appendElement(nil, &Element{Key: PairKey(netip.MustParsePrefix("10.0.0.0/8")), Comment: "on-link"}))
		}
		if c.Interval && c.Key.isSegment() {
			f.Add(uint8(i), c.appendElement(nil, &Element{Key: SegmentKey("br0", netip.MustParsePrefix("10.0.0.0/8")), Comment: "on-link"}))
		}
		if c.Interval && c.Key.isAddr() {
			f.Add(uint8(i), c.appendElement(nil, &Element{Key: PrefixKey(netip.MustParsePrefix("10.0.0.0/8")), Comment: "on-link"}))
		}
		if !c.Interval && c.Key.isAddr() {
			f.Add(uint8(i), c.appendElement(nil, &Element{Key: AddrKey(netip.MustParseAddr("2001:db8::1"))}))
		}
		if c.Key.isInterface() {
			f.Add(uint8(i), c.appendElement(nil, &Element{Key: InterfaceKey("veth0"), Comment: "x"}))
		}
		if c.Key.isPort() && c.Value != nil {
			f.Add(uint8(i), c.appendElement(nil, &Element{
				Key: PortKey(80), Value: netip.MustParseAddrPort("192.0.2.1:80"), Timeout: time.Hour, Expires: time.Minute, Comment: "web",
			}))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		cs := fuzzed()
		c := cs[int(which)%len(cs)]
		e, err := c.decode(b)
		if err != nil {
			return
		}
		require.NotContains(t, e.String(), "\n")
		if c.check(&e) != nil {
			return // what others can write, we may refuse
		}
		again, err := c.decode(c.appendElement(nil, &e))
		require.NoError(t, err)
		require.Equal(t, e, again)
	})
}

// FuzzPrefixes decodes any bytes as the elements of a set of prefixes. What is read is
// in order and does not overlap, and is read again from what it is written as.
func FuzzPrefixes(f *testing.F) {
	c := named(sample(), "networks4")
	var all []byte
	for _, p := range []string{"0.0.0.0/8", "1.0.0.0/8", "10.0.0.1/32", "224.0.0.0/3"} {
		all = c.appendMember(all, &Element{Key: PrefixKey(netip.MustParsePrefix(p)), Comment: p}, (*Set).appendElement)
	}
	f.Add(all)
	f.Add(c.appendMember(nil, &Element{Key: keyOf(startKey, netip.IPv4Unspecified(), 0)}, (*Set).appendElement))
	f.Fuzz(func(t *testing.T, b []byte) {
		var es []Element
		for list := (nlwire.Attrs{Data: b}); list.Next(); {
			if e, err := c.decode(list.Payload); err == nil {
				es = append(es, e)
			}
		}
		n := len(es)
		var good []Element
		for _, e := range c.pair(es) {
			n--
			require.NotContains(t, e.String(), "\n")
			if e.Foreign == "" {
				require.NoError(t, c.checkKey(&e.Key))
				good = append(good, e)
			}
		}
		require.GreaterOrEqual(t, n, 0, "there are more ranges than bounds")
		var again []Element
		var before netip.Addr
		for _, e := range good {
			p, _ := e.Key.Prefix()
			require.LessOrEqual(t, before.Compare(p.Addr()), 0, "%s overlaps with one before", p)
			before = p.Addr()
			for list := (nlwire.Attrs{Data: c.appendMember(nil, &Element{Set: c.Name, Key: e.Key}, (*Set).appendElement)}); list.Next(); {
				bound, err := c.decode(list.Payload)
				require.NoError(t, err)
				again = append(again, bound)
			}
			// As one by one in a request.
			list := nlwire.Attrs{Data: c.appendMember(nil, &e, (*Set).appendElement)}
			key, end := c.next(&list)
			var got Element
			require.NoError(t, c.decodeNext(&got, key, end))
			require.Equal(t, e.Key, got.Key)
		}
		again = c.pair(again)
		require.Len(t, again, len(good))
		for i, e := range again {
			require.Equal(t, good[i].Key, e.Key)
		}
	})
}

// FuzzInterfaceKey takes any name. What is a key prints in quotes and is read back.
func FuzzInterfaceKey(f *testing.F) {
	f.Add("veth0")
	f.Add("a b")
	f.Add("a\"\n")
	c := named(sample(), "links")
	f.Fuzz(func(t *testing.T, name string) {
		k := InterfaceKey(name)
		if got, ok := k.Interface(); ok {
			require.Equal(t, name, got)
			require.Equal(t, `"`+name+`"`, k.String())
			e, err := c.decode(c.appendElement(nil, &Element{Key: k}))
			require.NoError(t, err)
			require.Equal(t, k, e.Key)
			return
		}
		require.Equal(t, Key{}, k)
		require.Error(t, c.checkKey(&k))
	})
}

// FuzzMessages walks over any bytes as a datagram, its messages and their attributes.
// Nothing is read twice or skipped but padding.
func FuzzMessages(f *testing.F) {
	b := newBatch(7, 3)
	b.addTable("nftnat", "comment", "tag", TableOwned)
	b.addElements(sample(), ports(3, "web"))
	b.finish()
	f.Add(b.buf)
	f.Add(errorMessage(1, unix.EEXIST, explainedFlags, explanation("twice", 84)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := nlwire.Messages{Data: b}
		read := 0
		for m.Next() {
			n := unix.SizeofNlMsghdr + len(m.Payload)
			read += n
			require.LessOrEqual(t, len(m.Data)+n, len(b))
			for a := m.Attrs(nlwire.NetfilterHeader); a.Next(); {
				require.LessOrEqual(t, len(a.Payload), len(m.Payload))
				if a.Type == unix.NFTA_SET_ELEM_LIST_ELEMENTS {
					for list := (nlwire.Attrs{Data: a.Payload}); list.Next(); {
						_ = list.BE32()
					}
				}
			}
		}
		require.LessOrEqual(t, read, len(b))
		if m.Err == nil {
			require.Empty(t, m.Data)
		}
	})
}

// FuzzAnswer decodes any bytes as the payload of an error or the end of a dump.
func FuzzAnswer(f *testing.F) {
	f.Add(uint16(unix.NLMSG_ERROR), uint16(explainedFlags), errorMessage(1, unix.EEXIST, explainedFlags, explanation("twice", 84)...)[16:])
	f.Add(uint16(unix.NLMSG_DONE), uint16(unix.NLM_F_MULTI), []byte{0, 0, 0, 0})
	f.Add(uint16(unix.NLMSG_ERROR), uint16(unix.NLM_F_ACK_TLVS), errorMessage(1, unix.EPERM, 0)[16:])
	f.Fuzz(func(t *testing.T, typ, flags uint16, payload []byte) {
		a, err := nlwire.Message{Type: typ, Flags: flags, Payload: payload}.Answer()
		if err != nil {
			return
		}
		require.LessOrEqual(t, a.Errno, unix.Errno(4095))
		require.Equal(t, a.Errno == 0, a.Err() == nil)
		require.NotContains(t, a.Text, "\x00")
		// Whatever the offset, some object is named.
		b := newBatch(1, 0)
		b.addElements(sample(), ports(2, ""))
		require.Contains(t, b.failure(b.ops[0], a).Error(), "add element tcp4")
	})
}

// FuzzComment decodes any bytes as user data, and finds in it what was put there.
func FuzzComment(f *testing.F) {
	f.Add([]byte("\x00\x04web\x00"), "web")
	f.Add([]byte("\x05\x02ab"), `back\slash`)
	f.Add([]byte("\x00\xff"), "")
	f.Fuzz(func(t *testing.T, b []byte, s string) {
		got := comment(b)
		require.LessOrEqual(t, len(got), len(b))
		require.Contains(t, string(b), got)
		require.NotContains(t, got, "\x00")
		if checkComment(s) != nil {
			require.NotContains(t, quote(s), "\n")
			return
		}
		require.Equal(t, s, comment(appendComment(nil, s)))
		require.Equal(t, s, strings.Trim(quote(s), `"`))
		// Behind data of another type it is found as well.
		require.Equal(t, s, comment(appendComment([]byte{9, 1, 0}, s)))
	})
}
