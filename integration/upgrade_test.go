// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/handover"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

var wayOut = regexp.MustCompile(`(?s)\n\tchain way-out \{.*?\n\t\}\n`)

// age changes the table, in one transaction, to one of an older version: with an earlier
// schema, without one of the maps and the segments, with a pair for each link of a backend,
// with other rules and a chain less.
func age(t *testing.T, ns *lab.NS) {
	t.Helper()
	now := nft(t, ns, "list", "table", "inet", "nftnat")
	old := wayOut.ReplaceAllString(now, "")
	old = strings.ReplaceAll(old, "jump way-out", "masquerade")
	old = strings.ReplaceAll(old, "nftnat schema 4", "nftnat schema 2")
	old = regexp.MustCompile(`(?s)\n\t(map|set) \S*(range|holes)\S* \{.*?\n\t\}\n`).ReplaceAllString(old, "")
	old = regexp.MustCompile(`(?s)\n\tchain \S*range\S* \{.*?\n\t\}\n`).ReplaceAllString(old, "")
	old = regexp.MustCompile(`\n.*(@\S*range|jump \S*range).*`).ReplaceAllString(old, "")
	old = regexp.MustCompile(`(?s)\n\tmap udp6_to4 \{.*?\n\t\}\n`).ReplaceAllString(old, "")
	old = regexp.MustCompile(`(?s)\n\tset segments[46] \{.*?\n\t\}\n`).ReplaceAllString(old, "")
	old = regexp.MustCompile(`\n.*@segments[46].*`).ReplaceAllString(old, "")
	const pairs = "set inside6 {\n\t\ttype ipv6_addr . ipv6_addr\n\t\tflags interval\n"
	require.Contains(t, old, pairs)
	old = strings.Replace(old, pairs, pairs+"\t\telements = { fd00:30::/64 . fd00:30::/64 comment \"on-link\" }\n", 1)
	require.Greater(t, len(now)-len(old), 300, "it is not older: %s", old)
	load(t, ns, "delete table inet nftnat\n"+old)
}

// trespass sends datagrams to a port of a backend that is not published, and counts those
// that arrive.
type trespass struct {
	*task
	arrivals net.PacketConn
}

func startTrespass(t *testing.T, top *lab.Topology) *trespass {
	t.Helper()
	arrivals, err := top.Backend1.ListenPacket("udp", ":81")
	require.NoError(t, err)
	f := dialFlow(t, top.Client, "udp", at(top.Backend1.V4, 81))
	send := func(int64) error {
		_, err := f.conn.Write([]byte("hello"))
		if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EPERM) {
			return nil
		}
		time.Sleep(100 * time.Microsecond)
		return err
	}
	t.Cleanup(func() { _ = arrivals.Close() })
	return &trespass{startTask(t, send), arrivals}
}

// arrived reports whether one arrives in time.
func (x *trespass) arrived(t *testing.T, wait time.Duration) bool {
	t.Helper()
	require.NoError(t, x.arrivals.SetReadDeadline(time.Now().Add(wait)))
	_, _, err := x.arrivals.ReadFrom(make([]byte, 100))
	return err == nil
}

// drain waits until none arrives any more, and returns how many did.
func (x *trespass) drain(t *testing.T) (n int) {
	t.Helper()
	for x.arrived(t, silence) {
		n++
	}
	return n
}

// transactions is how many a table that exists is replaced in: the stand-in, its base chains, the
// table, and the end of the stand-in. Only the third is about the table itself.
const transactions = 4

// upgraded is a host with a guarded network and live flows.
type upgraded struct {
	top      *lab.Topology
	s        *testbed
	intact   string
	elements []string
	flows    []*flow
	calls    []*callers
	trespass *trespass
}

func newUpgraded(t *testing.T) (*upgraded, *labtest.Process) {
	t.Helper()
	top, s := proxiedHost(t)
	daemon := s.serve(t)
	s.publishEveryKind(t)
	s.succeed(t, "add --quiet tcp 8090 172.30.0.2:80 --ttl 1h --name leased")
	u := &upgraded{top: top, s: s, trespass: startTrespass(t, top)}
	require.True(t, u.trespass.arrived(t, answerTimeout), "without a guard they arrive")
	s.succeed(t, "network create inside 172.30.0.0/24")
	u.trespass.drain(t)
	for _, network := range []string{"tcp", "udp"} {
		u.calls = append(u.calls, startCallers(t, top.Client, network, "192.0.2.1:8080"), startCallers(t, top.Client, network, "192.0.2.1:8083"))
		for _, port := range []int{8080, 8083} {
			f := dialFlow(t, top.Client, network, at(top.Host.V4, port))
			require.Equal(t, "backend", f.name(t))
			u.flows = append(u.flows, f)
		}
	}
	u.intact, u.elements = listed(t, top.Host), sortedElements(t, top.Host)
	return u, daemon
}

// age makes the table an older one. While nft(8) replaces it, packets may pass the guard or miss what
// is published.
func (u *upgraded) age(t *testing.T) {
	t.Helper()
	age(t, u.top.Host)
	u.trespass.drain(t)
	for _, c := range u.calls {
		c.forget()
	}
}

// check checks that the upgrade was one transaction of the table.
func (u *upgraded) check(t *testing.T, before uint32, changes *tableChanges) {
	t.Helper()
	require.Equal(t, before+transactions, generation(t, u.top.Host))
	changes.once(t)
	require.Equal(t, u.intact, listed(t, u.top.Host))
	require.Equal(t, u.elements, sortedElements(t, u.top.Host))
	for _, f := range u.flows {
		goesOn(t, f)
	}
	for _, c := range u.calls {
		c.goOn(t)
		done := c.end(t)
		require.Zero(t, c.refused+c.broken+c.lost, "%s: %v", c, done)
	}
	require.Zero(t, u.trespass.drain(t), "the guard was open")
	require.False(t, u.trespass.arrived(t, silence))
	u.trespass.end(t)
	require.Regexp(t, `tcp +8090 +172.30.0.2:80 +leased +yes +in (1h|59m)`, u.s.succeed(t, "ls"))
}

// The table of an older version is converted in one transaction, while flows exist and begin:
// no connection is refused or broken, no mapping is lost, and the guard stays closed.
func TestUpgrade(t *testing.T) {
	labtest.LongOnly(t, "upgrades of an older table under load")
	u, daemon := newUpgraded(t)
	daemon.Kill()
	for range 3 {
		u.age(t)
		require.NotEqual(t, u.intact, listed(t, u.top.Host))
		before, changes := generation(t, u.top.Host), watchTable(t, u.top.Host)
		next := u.s.serve(t)
		require.Equal(t, before+transactions, generation(t, u.top.Host))
		changes.once(t)
		require.Zero(t, u.trespass.drain(t), "the guard was open")
		require.Contains(t, next.Output(), `it is of an earlier version: its comment is \"nftnat schema 2\"`)
		require.Equal(t, u.intact, listed(t, u.top.Host))
		require.NoError(t, next.Signal(unix.SIGTERM))
		require.Zero(t, next.Wait(), next.Output())
	}
	u.age(t)
	before, changes := generation(t, u.top.Host), watchTable(t, u.top.Host)
	u.s.serve(t)
	u.check(t, before, changes)
}

// The same with a takeover: clients of the proxies are not affected either.
func TestUpgradeByTakeover(t *testing.T) {
	labtest.LongOnly(t, "an upgrade of the table during a takeover")
	u, daemon := newUpgraded(t)
	for _, network := range []string{"tcp", "udp"} {
		for _, address := range everyKindProxied {
			u.calls = append(u.calls, startCallers(t, u.top.Host, network, address))
		}
	}
	long := startStream(t, u.top.Host, "127.0.0.1:8080")
	held := startOccupiers(t, u.top.Host)
	var before uint32
	var changes *tableChanges
	r := relayTo(t, u.s)
	next := r.succeed(t, func(k handover.Kind, _ *labtest.Process) bool {
		if k == handover.EndOfList { // the daemon has released the table, and no other one has it yet
			u.age(t)
			before, changes = generation(t, u.top.Host), watchTable(t, u.top.Host)
		}
		return true
	})
	require.Contains(t, next.Output(), "table was repaired")
	u.check(t, before, changes)
	held.end(t)
	t.Logf("%d bytes by the connection of the first", long.end(t))
	require.Zero(t, daemon.Wait(), daemon.Output())
	require.Equal(t, next.Pid, u.s.status(t).PID)
}

// Consecutive ports of a table of an older version stay single ones, and become a part of ranges that are published in their place: no
// packet is lost in the upgrade or after it.
func TestUpgradeWithRanges(t *testing.T) {
	labtest.LongOnly(t, "an upgrade of an older table, and ranges in it, under load")
	top, s := proxiedHost(t)
	daemon := s.serve(t)
	var calls []*callers
	for _, network := range []string{"tcp", "udp"} {
		for port := 9000; port < 9010; port++ {
			labtest.Echo(t, top.Backend1, network, "backend", fmt.Sprint(":", port))
			s.succeed(t, fmt.Sprintf("add --quiet %s %d 172.30.0.2", network, port))
		}
		calls = append(calls, startCallers(t, top.Client, network, "192.0.2.1:9005"), startCallers(t, top.Client, network, "192.0.2.1:9000"))
	}
	ranges := func() (n int) {
		for _, line := range sortedElements(t, top.Host) {
			if strings.Contains(line, "_range") {
				n++
			}
		}
		return n
	}
	before := sortedElements(t, top.Host)
	daemon.Kill()
	age(t, top.Host)
	next := s.serve(t)
	require.Contains(t, next.Output(), `it is of an earlier version: its comment is \"nftnat schema 2\"`)
	require.Equal(t, before, sortedElements(t, top.Host))
	require.Zero(t, ranges())
	require.Regexp(t, `(?m)^tcp +9000-9009 +172\.30\.0\.2:9000-9009 `, s.succeed(t, "ls"))
	for _, network := range []string{"tcp", "udp"} {
		s.succeed(t, "add --quiet "+network+" 10000-60000 172.30.0.2")
		s.succeed(t, "add --quiet --replace "+network+" 8990-9099 172.30.0.2")
		s.succeed(t, "rm --quiet "+network+" 9001")
	}
	for _, c := range calls {
		c.goOn(t)
		done := c.end(t)
		require.Zero(t, c.refused+c.broken+c.lost, "%s: %v", c, done)
	}
	t.Logf("%d elements of ranges", ranges())
	require.NotZero(t, ranges())
	require.Regexp(t, `(?m)^udp +9002-9099 `, s.succeed(t, "ls"))
}

// A daemon of an older version refuses a table of a newer one, also if its successor has
// upgraded the table and then failed. The daemon says so and ends, and the table keeps
// working.
func TestUpgradeIsOneWay(t *testing.T) {
	top, s := proxiedHost(t)
	daemon := s.serve(t)
	s.publishEveryKind(t)
	through := startCallers(t, top.Client, "tcp", "192.0.2.1:8080")
	newer := strings.ReplaceAll(nft(t, top.Host, "list", "table", "inet", "nftnat"), "nftnat schema 4", "nftnat schema 5")
	successor := relayTo(t, s).succeed(t, func(k handover.Kind, _ *labtest.Process) bool {
		if k == handover.EndOfList {
			load(t, top.Host, "delete table inet nftnat\n"+newer)
		}
		return k != handover.EndOfList
	})
	const says = "nftnat: %sopen table nftnat: the table was made by a newer version of nftnat: it has schema 5, this version knows 4\n"
	require.Equal(t, 1, successor.Wait())
	require.Contains(t, successor.Output(), fmt.Sprintf(says, ""))
	require.Equal(t, 1, daemon.Wait())
	require.Contains(t, daemon.Output(), fmt.Sprintf(says, "resume: "))
	through.goOn(t)
	done := through.end(t)
	require.Zero(t, through.refused+through.broken+through.lost, done)
	require.Contains(t, nft(t, top.Host, "list", "table", "inet", "nftnat"), "nftnat schema 5")
}
