// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"bufio"
	"encoding/binary"
	"net/netip"
	"os"
	"regexp"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/nlwire"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// dial connects to the table of a namespace.
func dial(tb testing.TB, ns *lab.NS) *Conn {
	tb.Helper()
	f, err := os.Open(ns.Path())
	require.NoError(tb, err)
	defer f.Close()
	c, err := Dial(&Config{NetNS: int(f.Fd())})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, c.Close()) })
	return c
}

// tupleLine is what `conntrack -L` prints of a flow, for protocols with ports.
var tupleLine = regexp.MustCompile(`src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+)`)

// oracle lists the flows of TCP and UDP as conntrack(8) sees them, in the form
// of Flow.String, sorted.
func oracle(tb testing.TB, ns *lab.NS) []string {
	tb.Helper()
	var flows []string
	for _, family := range []string{"ipv4", "ipv6"} {
		lines := bufio.NewScanner(strings.NewReader(labtest.Exec(tb, ns, "conntrack", "-L", "-f", family)))
		for lines.Scan() {
			m := tupleLine.FindAllStringSubmatch(lines.Text(), -1)
			if m == nil {
				continue
			}
			require.Len(tb, m, 2, lines.Text())
			flows = append(flows, strings.Fields(lines.Text())[0]+" "+
				side(m[0][1], m[0][3])+"->"+side(m[0][2], m[0][4])+", reply "+
				side(m[1][1], m[1][3])+"->"+side(m[1][2], m[1][4]))
		}
		require.NoError(tb, lines.Err())
	}
	sort.Strings(flows)
	return flows
}

func side(addr, port string) string {
	if strings.Contains(addr, ":") {
		return "[" + addr + "]:" + port
	}
	return addr + ":" + port
}

// listed lists the flows of TCP and UDP as this package sees them.
func listed(tb testing.TB, c *Conn) []string {
	tb.Helper()
	var flows []string
	require.NoError(tb, c.Each(Filter{}, func(f Flow) error {
		if f.Proto == unix.IPPROTO_TCP || f.Proto == unix.IPPROTO_UDP {
			flows = append(flows, f.String())
		}
		return nil
	}))
	sort.Strings(flows)
	return flows
}

// plain returns a flow without NAT.
func plain(proto uint8, src, dst string) Flow {
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	return Flow{Proto: proto, Src: s, Dst: d, ReplySrc: d, ReplyDst: s, Status: StatusSeenReply | StatusAssured}
}

func appendTuple(b []byte, typ uint16, proto uint8, src, dst netip.AddrPort) []byte {
	nest := len(b)
	b = beginNest(b, typ)
	ip := len(b)
	b = beginNest(b, ctaTupleIP)
	if src.Addr().Is4() {
		b = nlwire.AppendAttr(b, ctaIPv4Src, src.Addr().AsSlice()...)
		b = nlwire.AppendAttr(b, ctaIPv4Dst, dst.Addr().AsSlice()...)
	} else {
		b = nlwire.AppendAttr(b, ctaIPv6Src, src.Addr().AsSlice()...)
		b = nlwire.AppendAttr(b, ctaIPv6Dst, dst.Addr().AsSlice()...)
	}
	b = nlwire.CloseAttr(b, ip)
	p := len(b)
	b = beginNest(b, ctaTupleProto)
	b = nlwire.AppendAttr(b, ctaProtoNum, proto)
	b = nlwire.AppendAttr(b, ctaProtoSrcPort, binary.BigEndian.AppendUint16(nil, src.Port())...)
	b = nlwire.AppendAttr(b, ctaProtoDstPort, binary.BigEndian.AppendUint16(nil, dst.Port())...)
	b = nlwire.CloseAttr(b, p)
	return nlwire.CloseAttr(b, nest)
}

func familyOf(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// appendNew appends the request to create a flow (IPCTNL_MSG_CT_NEW), good for
// an hour.
func appendNew(b []byte, f Flow) []byte {
	start := len(b)
	b, _ = request(b, msgNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL, familyOf(f.Src.Addr()))
	b = appendTuple(b, ctaTupleOrig, f.Proto, f.Src, f.Dst)
	b = appendTuple(b, ctaTupleReply, f.Proto, f.ReplySrc, f.ReplyDst)
	b = nlwire.AppendAttr(b, ctaStatus, binary.BigEndian.AppendUint32(nil, uint32(f.Status|StatusConfirmed))...)
	b = nlwire.AppendAttr(b, ctaTimeout, binary.BigEndian.AppendUint32(nil, 3600)...)
	if f.Zone != 0 {
		b = nlwire.AppendAttr(b, ctaZone, binary.BigEndian.AppendUint16(nil, f.Zone)...)
	}
	return nlwire.CloseMessage(b, start)
}

// fill creates flows in a namespace.
func fill(tb testing.TB, ns *lab.NS, n int, flow func(i int) Flow) {
	tb.Helper()
	f, err := os.Open(ns.Path())
	require.NoError(tb, err)
	defer f.Close()
	s, err := nlwire.Dial(nlwire.Config{Protocol: unix.NETLINK_NETFILTER, NetNS: int(f.Fd()), ReceiveBuffer: socketBuffer})
	require.NoError(tb, err)
	defer func() { require.NoError(tb, s.Close()) }()
	ch := newChannel(s)
	var b []byte
	for i := 0; i < n; {
		count := 0
		for b = b[:0]; count < chunk && i < n; count++ {
			b = appendNew(b, flow(i))
			i++
		}
		require.NoError(tb, ch.batch(b, count, func(a nlwire.Answer) {
			tb.Errorf("create a flow among the %d up to %v: %v", count, flow(i-1), a.Err())
		}))
	}
}

// addresses gives lo what the tests' traffic goes to and comes from.
func addresses(tb testing.TB, ns *lab.NS) {
	tb.Helper()
	h, err := ns.Handle()
	require.NoError(tb, err)
	defer h.Close()
	lo, err := h.LinkByName("lo")
	require.NoError(tb, err)
	for _, a := range []string{
		"192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32", "192.0.2.9/32",
		"2001:db8::1/128", "2001:db8::2/128", "2001:db8::9/128",
	} {
		addr, err := netlink.ParseAddr(a)
		require.NoError(tb, err)
		// Else an IPv6 address is tentative until a work queue has seen to it, on lo too,
		// and cannot be bound to.
		addr.Flags = unix.IFA_F_NODAD
		require.NoError(tb, h.AddrAdd(lo, addr))
		require.Eventually(tb, func() bool { // that of IPv6 is made local by a work queue too
			routes, err := h.RouteGet(addr.IP)
			return err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL
		}, labtest.Stretch(10*time.Second), time.Millisecond)
	}
}
