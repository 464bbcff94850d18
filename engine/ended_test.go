// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/nat"
)

func udpFlow(host string, port uint16, backend string) conntrack.Flow {
	client := netip.MustParseAddrPort("198.51.100.7:1000")
	return conntrack.Flow{
		Proto: uint8(nat.UDP), Src: client, Dst: netip.AddrPortFrom(netip.MustParseAddr(host), port),
		ReplySrc: netip.MustParseAddrPort(backend), ReplyDst: client,
	}
}

// Notes that a killed engine left are done by the next, and by no reader.
func TestNotesOfWhatHasEnded(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "79->172.30.0.2:80", "81->172.30.0.9:81/udp")
	whole := b.kernel.Dump()
	goes := []conntrack.Flow{
		udpFlow(local4, 80, "172.30.0.2:80"), udpFlow(otherLocal4, 80, "172.30.0.2:80"), udpFlow(local4, 82, "172.30.0.2:82"), udpFlow(local4, 81, "172.30.0.2:81"),
	}
	stays := []conntrack.Flow{
		udpFlow(local4, 80, "172.30.0.3:80"), udpFlow("203.0.113.9", 80, "172.30.0.2:80"), udpFlow(otherLocal4, 82, "172.30.0.2:82"),
		udpFlow(local4, 83, "172.30.0.2:80"), udpFlow(local4, 81, "172.30.0.9:81"),
	}
	b.flows.flows = append(goes, stays...)
	b.write(t,
		foreign("udp4_ended", "0.0.0.0:80", "172.30.0.2:80", "web"), foreign("udp4_ended", local4+":82", "172.30.0.2:82", ""),
		foreign("udp4_ended", "0.0.0.0:81", "172.30.0.2:81", "published again, to another"),
	)
	noted := b.kernel.Dump()
	b.openWith(t, Options{ReadOnly: true})
	require.Equal(t, noted, b.kernel.Dump())
	require.Len(t, b.flows.flows, 9)
	e = b.open(t)
	require.Equal(t, whole, b.kernel.Dump())
	require.Equal(t, stays, b.flows.flows)
	requireConsistent(t, b, e)
}

// What others write there that can be no note goes too, and ends nothing.
func TestStrangeNotes(t *testing.T) {
	for key, value := range map[string]string{
		"0.0.0.0:0": "172.30.0.2:80", "0.0.0.0:80": "172.30.0.2:0", "0.0.0.0:81": "127.0.0.1:80", "127.0.0.1:80": "172.30.0.2:80", "224.0.0.1:80": "172.30.0.2:80",
	} {
		e, b := openFake(t)
		publish(t, e, "79->172.30.0.2:80")
		whole := b.kernel.Dump()
		flow := udpFlow("127.0.0.1", 80, "172.30.0.2:80")
		b.flows.flows = []conntrack.Flow{flow}
		b.write(t, foreign("udp4_ended", key, value, "x"))
		e = b.open(t)
		require.Equal(t, whole, b.kernel.Dump(), key)
		require.Equal(t, []conntrack.Flow{flow}, b.flows.flows)
		requireConsistent(t, b, e)
	}
}
