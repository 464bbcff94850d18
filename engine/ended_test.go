// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/internal/nattest"
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

// opening is a TCP flow that nobody has answered.
func opening(host string, port uint16, backend string) conntrack.Flow {
	f := udpFlow(host, port, backend)
	f.Proto = uint8(nat.TCP)
	return f
}

// When a port is over its flows end: those over UDP, and over TCP those that nobody has
// answered; not before the kernel has removed its element, and many at once.
func TestExpiredFlowsEnd(t *testing.T) {
	e, b := openFake(t)
	const leases = 500
	var ms []nat.Mapping
	for i := range leases {
		port := strconv.Itoa(1000 + i)
		ms = append(ms, leaseFor(t, b, port+"->172.30.0.2:"+port, time.Minute+time.Duration(i)*time.Millisecond/10),
			leaseFor(t, b, port+"->172.30.0.2:"+port+"/udp", time.Minute))
	}
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, append(ms, nattest.Mapping(t, "80->172.30.0.2:80/udp"))...)
	require.NoError(t, err)
	answered := opening(local4, 1001, "172.30.0.2:1001")
	answered.Status = conntrack.StatusSeenReply
	stays := []conntrack.Flow{answered, udpFlow(local4, 80, "172.30.0.2:80"), udpFlow(local4, 1000, "172.30.0.3:1000")}
	b.flows.flows = append(slices.Clone(stays), opening(local4, 1001, "172.30.0.2:1001"), udpFlow(local4, 1000, "172.30.0.2:1000"), udpFlow(otherLocal4, 1499, "172.30.0.2:1499"))
	requireConsistent(t, b, e)

	b.clock.advance(time.Minute + 50*time.Millisecond)
	b.flows.passes = nil
	next, waits := e.expire()
	require.Empty(t, b.flows.passes, "the kernel may be late")
	require.True(t, waits)
	require.LessOrEqual(t, next, expiryGrace)
	for waited := time.Duration(0); waits; waited += next {
		require.Less(t, waited, time.Second)
		b.clock.advance(next)
		next, waits = e.expire()
	}
	require.Equal(t, stays, b.flows.flows)
	require.LessOrEqual(t, len(b.flows.passes), 4, "a few passes for all")
	require.Empty(t, notesIn(b))
	requireConsistent(t, b, e)
}

// What has expired while no engine was there ends with the next one, and so does what was in
// a lost table.
func TestExpiredWithoutEngine(t *testing.T) {
	for _, lost := range []bool{false, true} {
		e, b := openKept(t)
		_, err := e.Publish(t.Context(), nat.PublishOptions{}, leaseFor(t, b, "80->172.30.0.2:80/udp", time.Minute),
			leaseFor(t, b, "80->172.30.0.2:80", time.Minute), leaseFor(t, b, local4+":81->172.30.0.2:81/udp", time.Hour))
		require.NoError(t, err)
		stays := []conntrack.Flow{udpFlow(local4, 81, "172.30.0.2:81"), udpFlow(local4, 82, "172.30.0.2:80")}
		b.flows.flows = append(slices.Clone(stays), udpFlow(local4, 80, "172.30.0.2:80"), opening(otherLocal4, 80, "172.30.0.2:80"))
		b.clock.advance(time.Minute)
		if lost {
			b.kernel.Flush()
		}
		e = b.open(t)
		require.Equal(t, stays, b.flows.flows)
		requireConsistent(t, b, e)
		require.Equal(t, []string{"udp4_ended { 192.0.2.1 . 81 : 172.30.0.2 . 81 }"}, notesIn(b))
	}
}

// A note stays with a renewal, moves with the backend, and goes with the end.
func TestNotesOfLeases(t *testing.T) {
	e, b := openFake(t)
	notes := func() []string {
		requireConsistent(t, b, e)
		return notesIn(b)
	}
	publishFor := func(text string, d time.Duration) {
		m := nattest.Mapping(t, text)
		if d != 0 {
			m.Expires = b.clock.Now().Add(d)
		}
		_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, m)
		require.NoError(t, err)
	}
	publishFor("53->172.30.0.2:53/udp", time.Minute)
	require.Equal(t, []string{"udp4_ended { 0.0.0.0 . 53 : 172.30.0.2 . 53 }"}, notes())
	publishFor("53->172.30.0.2:53/udp", time.Hour)
	require.Len(t, notes(), 1)
	publishFor("53->172.30.0.3:53/udp", time.Hour)
	require.Equal(t, []string{"udp4_ended { 0.0.0.0 . 53 : 172.30.0.3 . 53 }"}, notes())
	publishFor("53->[fd00:30::2]:53/udp", time.Hour)
	require.Equal(t, []string{"udp6_ended { :: . 53 : fd00:30::2 . 53 }"}, notes())
	publishFor("53->172.30.0.2:53/udp", 0)
	require.Empty(t, notes())
	publishFor("53->172.30.0.2:53/udp", time.Minute)
	_, err := e.Apply(t.Context(), leaseFor(t, b, "0.0.0.0:53->172.30.0.2:53/udp", time.Minute))
	require.NoError(t, err)
	require.Len(t, notes(), 1)
	_, err = e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "0.0.0.0:53->172.30.0.2:53/udp")}})
	require.NoError(t, err)
	require.Empty(t, notes())

	// Published again before its flows have ended, to another backend.
	publishFor("80->172.30.0.2:80", time.Minute)
	b.clock.advance(time.Minute)
	b.flows.flows = []conntrack.Flow{opening(local4, 80, "172.30.0.2:80")}
	publishFor("80->172.30.0.3:80", time.Minute)
	require.Empty(t, b.flows.flows)
	require.Len(t, notes(), 1)

	// Others publish it.
	b.write(t, schema.PortElement(portset.Of(leaseFor(t, b, "90->172.30.0.2:90", time.Hour)), b.clock.Now()))
	e = b.open(t)
	require.Len(t, notes(), 2)
}

// A port that is taken out of a range over UDP that has a time-out has a note until its flows have
// ended, for the next engine if this one is killed.
func TestNotesOfPortsTakenOut(t *testing.T) {
	for _, taken := range []string{"1500->172.30.0.2:1500/udp", "1000-1010->172.30.0.2:1000-1010/udp", "1500-1999->172.30.0.2:1500-1999/udp", "1000-1999->172.30.0.2:1000-1999/udp"} {
		for _, killed := range []bool{false, true} {
			e, b := openFake(t)
			m := leaseFor(t, b, "1000-1999->172.30.0.2:1000-1999/udp", time.Hour)
			_, err := e.Publish(t.Context(), nat.PublishOptions{}, m)
			require.NoError(t, err)
			gone := nattest.Mapping(t, taken)
			stays := []conntrack.Flow{udpFlow(local4, 5000, "172.30.0.3:5000")}
			if gone.More < 900 {
				stays = append(stays, udpFlow(local4, 1012, "172.30.0.2:1012"))
			}
			b.flows.flows = append(slices.Clone(stays), udpFlow(local4, gone.Frontend.Port(), gone.Backend.String()),
				udpFlow(otherLocal4, gone.Frontend.Port()+gone.More, netip.AddrPortFrom(gone.Backend.Addr(), gone.Backend.Port()+gone.More).String()))
			dead := false
			b.flows.hook = func(string) error {
				if dead = killed; dead {
					return unix.EIO
				}
				return nil
			}
			b.kernel.Hook(func(string) error {
				if dead {
					return unix.EIO
				}
				return nil
			})
			_, err = e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{gone}})
			if killed {
				b.flows.hook = nil
				b.kernel.Hook(nil)
				e = b.open(t)
			} else {
				require.NoError(t, err)
			}
			require.ElementsMatch(t, stays, b.flows.flows, taken)
			requireConsistent(t, b, e)
		}
	}
}
