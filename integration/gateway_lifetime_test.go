// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/binary"
	"net/http"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// What clients are told of the time of a lease, new, renewed for longer or less, or later, is what the kernel's element has,
// within a second.
func TestGatewayLifetimes(t *testing.T) {
	t.Parallel() // it waits
	b := newGatewayTestbed(t, lab.HostLAN, "--igd", "v2")
	b.start(t)
	c := b.dial(t, b.one)
	// exact compares what is told with the kernel's: the answer came between two moments, and so did that of the kernel.
	exact := func(port string, tell func() uint32) {
		t.Helper()
		before := time.Now()
		told := time.Duration(tell()) * time.Second
		read := time.Now()
		left, ok := expires(t, b.ns, "tcp4")[port]
		require.True(t, ok, "port %s has no time in the kernel", port)
		require.LessOrEqual(t, told-left, time.Second+time.Since(before))
		require.LessOrEqual(t, left-told, time.Second)
		t.Logf("port %s: %s is told, and %s later it ends in %s", port, told, time.Since(read).Round(time.Millisecond), left)
	}
	for _, tt := range []struct{ asked, granted uint32 }{{600, 600}, {7200, 7200}, {150, 150}, {604800, 86400}, {30, 30}, {300, 300}} {
		exact("4000", func() uint32 {
			result, port, granted := c.pmp(t, pmpTCP, 4000, 4000, tt.asked)
			require.Zero(t, result)
			require.EqualValues(t, 4000, port)
			require.Equal(t, tt.granted, granted)
			return granted
		})
	}
	m := pcpMap{nonce: "nonce nonce!", proto: unix.IPPROTO_TCP, internal: 5000, external: 5000}
	for _, tt := range []struct{ asked, granted uint32 }{{600, 600}, {7200, 7200}, {30, 120}, {1<<32 - 1, 86400}, {3600, 3600}} {
		exact("5000", func() uint32 {
			m.lifetime = tt.asked
			got := m.send(t, c)
			require.Zero(t, got.result)
			require.EqualValues(t, 5000, got.external)
			require.Equal(t, tt.granted, got.lifetime)
			return got.lifetime
		})
	}
	soap := func(version int, action string, args ...string) string {
		t.Helper()
		cr := &crowd{ns: b.one, router: b.address, version: version}
		status, body, err := cr.soap(c.addr, action, append([]string{"NewRemoteHost", "", "NewExternalPort", "6000", "NewProtocol", "TCP"}, args...)...)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status, body)
		return body
	}
	said := func() uint32 {
		t.Helper()
		found := regexp.MustCompile(`<NewLeaseDuration>(\d+)<`).FindStringSubmatch(soap(2, "GetSpecificPortMappingEntry"))
		require.Len(t, found, 2)
		return uint32(must(strconv.ParseUint(found[1], 10, 32)))
	}
	for _, tt := range []struct {
		version        int
		asked, granted uint32
	}{{2, 604800, 604800}, {2, 3600, 3600}, {2, 0, 604800}, {1, 1209600, 1209600}, {1, 7200, 7200}} {
		exact("6000", func() uint32 {
			soap(tt.version, "AddPortMapping", "NewInternalPort", "6000", "NewInternalClient", c.addr.String(), "NewEnabled", "1",
				"NewPortMappingDescription", "web", "NewLeaseDuration", strconv.FormatUint(uint64(tt.asked), 10))
			return tt.granted
		})
		exact("6000", said)
	}

	// Later, and after a restart of both, it is still so.
	later := func() {
		t.Helper()
		exact("6000", said)
		exact("5000", func() uint32 { // which another nonce is told
			other := m
			other.nonce = "another one!"
			got := other.send(t, c)
			require.EqualValues(t, 2, got.result)
			return got.lifetime
		})
		for _, l := range b.state(t).Leases {
			left := time.Until(*l.Expires)
			require.InDelta(t, expires(t, b.ns, "tcp4")[strconv.Itoa(int(l.External))].Seconds(), left.Seconds(), labtest.Stretch(time.Second).Seconds())
		}
	}
	time.Sleep(1200 * time.Millisecond)
	later()
	killed(t, b.serving)
	b.serving = b.serve(t)
	killed(t, b.gateway)
	b.start(t)
	later()
	require.Len(t, b.state(t).Leases, 3)
}

// All is purged under the leases of a gateway that runs: the epoch starts anew, clients are told so, and get their ports again.
func TestGatewayPurged(t *testing.T) {
	t.Parallel() // it waits
	b := newGatewayTestbed(t, lab.HostLAN)
	heard := listenGroup(t, b.one, "224.0.0.1")
	b.start(t)
	c, cr := b.dial(t, b.one), &crowd{ns: b.one, router: b.address}
	askers := []asker{
		c.pmpAsker(t, 5000, 5000), c.pcpAsker(t, 5001, 5001, "text"), cr.igdAsker(t, c.addr, "AddPortMapping", 5002, 5002, "text"),
	}
	all := func() {
		t.Helper()
		for _, a := range askers {
			require.Equal(t, a.internal, a.again(), a.what)
		}
		require.Len(t, b.state(t).Leases, len(askers))
	}
	all()
	before := c.aged(t, 4)
	var epoch epochClient
	epoch.lost(before)
	b.succeed(t, "purge")
	b.serving.Wait()
	b.serving = b.serve(t)
	timeout := time.After(labtest.Stretch(20 * time.Second))
	for pmp, pcp := false, false; !pmp || !pcp; {
		select {
		case a := <-heard:
			switch {
			case len(a.data) == 12 && a.data[0] == 0 && binary.BigEndian.Uint32(a.data[4:]) < 2:
				pmp = pmp || a.at.After(epoch.client)
			case len(a.data) == 24 && a.data[0] == 2 && binary.BigEndian.Uint32(a.data[8:]) < 2:
				pcp = pcp || a.at.After(epoch.client)
			}
		case <-timeout:
			require.Fail(t, "the clients are not told")
		}
	}
	all()
	_, now := c.wan(t)
	require.Less(t, now, before)
	require.True(t, epoch.lost(now))
	c.aged(t, 2) // it goes on
}

// A daemon takes over while a thousand leases are renewed again and again: all requests are granted, and no lease is lost.
func TestGatewayTakeover(t *testing.T) {
	t.Parallel() // it waits
	const leases = 1000
	b := newGatewayTestbed(t, lab.HostLAN, "--quota", strconv.Itoa(leases))
	b.start(t)
	c := b.dialForMany(t, b.one)
	given := c.pmpAll(t, leases, 600)
	require.Len(t, b.state(t).Leases, leases)
	next := labtest.StartCmd(t, b.ns, b.command(t, "serve", "--takeover"))
	rounds := 0
	await(t, "the takeover", func() bool {
		rounds++
		require.Equal(t, given, c.pmpAll(t, leases, 3600))
		st, err := b.api.Status(t.Context())
		return err == nil && st.PID == next.Pid
	})
	require.Zero(t, b.serving.Wait(), b.serving.Output())
	b.serving = next
	require.Equal(t, given, c.pmpAll(t, leases, 7200))
	t.Logf("%d bursts until it had taken over", rounds)
	left := expires(t, b.ns, "udp4")
	require.Len(t, left, leases)
	for _, l := range b.state(t).Leases {
		require.Equal(t, given[l.Internal], l.External)
		require.Greater(t, left[strconv.Itoa(int(l.External))], 50*time.Minute)
		require.Greater(t, time.Until(*l.Expires), 50*time.Minute)
	}
	require.Len(t, b.state(t).Leases, leases)
	require.Empty(t, b.state(t).Refusals)
}
