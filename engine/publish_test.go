// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"io/fs"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/alloc"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// elementsIn returns the lines of a dump that are elements.
func elementsIn(dump string) []string {
	var es []string
	for line := range strings.Lines(dump) {
		if e, ok := strings.CutPrefix(line, "add element inet nftnat "); ok {
			es = append(es, strings.TrimSpace(e))
		}
	}
	return es
}

func TestPublishWritesElements(t *testing.T) {
	e, b := openFake(t)
	require.Empty(t, b.kernel.Dump(), "Open makes nothing")
	web := nattest.Mapping(t, "8080->172.30.0.2:80")
	web.Name, web.NoProxy = "web", true
	four := nattest.Mapping(t, "0.0.0.0:53->172.30.0.2:53/udp")
	six := nattest.Mapping(t, "[::]:53->[fd00:30::2]:53/udp")
	six.Name = "dns"
	lease := nattest.Mapping(t, local4+":9000->10.9.0.2:90")
	lease.Expires = b.clock.Now().Add(time.Minute)
	loop := nattest.Mapping(t, "[::1]:8081->[fd00:30::2]:80")
	other, all4 := nattest.Mapping(t, local4+":81->[fd00:30::2]:80"), nattest.Mapping(t, "0.0.0.0:82->[fd00:30::2]:80")
	other.Name = "six"
	all6 := nattest.Mapping(t, "[::]:82->172.30.0.2:80")
	want := []nat.Mapping{web, all4, other, lease, all6, loop, four, six}
	done, err := e.Publish(t.Context(), nat.PublishOptions{}, want...)
	require.NoError(t, err)
	require.Equal(t, want, done)
	require.Equal(t, []string{
		`tcp4 { 8080 comment "web [no-proxy]" : 172.30.0.2 . 80 }`,
		`tcp4_host { 192.0.2.1 . 9000 timeout 1m : 10.9.0.2 . 90 }`,
		`udp4 { 53 comment "[one-family]" : 172.30.0.2 . 53 }`,
		`tcp6_host { ::1 . 8081 : fd00:30::2 . 80 }`,
		`udp6 { 53 comment "dns [one-family]" : fd00:30::2 . 53 }`,
		`tcp4_to6 { 0.0.0.0 . 82 : fd00:30::2 . 80 }`,
		`tcp4_to6 { 192.0.2.1 . 81 comment "six" : fd00:30::2 . 80 }`,
		`tcp6_to4 { :: . 82 : 172.30.0.2 . 80 }`,
		`tcp4_ended { 192.0.2.1 . 9000 : 10.9.0.2 . 90 }`,
		`segments4 { "eth1" . "eth1" . 10.9.0.0/16 comment "on-link" }`,
		`segments4 { "br0" . "br0" . 172.30.0.0/24 comment "on-link" }`,
		`segments6 { "br0" . "br0" . fd00:30::/64 comment "on-link" }`,
	}, elementsIn(b.kernel.Dump()))
	require.Equal(t, want, must(e.Mappings(t.Context())))
	requireConsistent(t, b, e)
}

func TestStatusCountsPorts(t *testing.T) {
	e, _ := openFake(t)
	publish(t, e, "1-10->172.30.0.2:1-10", "[::1]:11->[fd00:30::2]:1", "1->172.30.0.2:1/udp", "2-3->[fd00:30::2]:2-3/udp")
	status, _ := e.Status(t.Context()) // the fake has no sysctls
	require.Equal(t, PortCounts{TCP4: 10, TCP6: 1, UDP4: 1, UDP6: 2}, status.Ports)
}

func TestPublishAndUnpublishLeaveNothing(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "8000-8009->172.30.0.2:9000-9009", "53->[fd00:30::2]:53/udp")
	done, err := e.Remove(t.Context(), nat.Removal{Mappings: mapAll(t, "8000-8009->1.1.1.1:1-10", "53->1.1.1.1:1/udp")})
	require.NoError(t, err)
	require.Equal(t, mapAll(t, "8000-8009->172.30.0.2:9000-9009", "53->[fd00:30::2]:53/udp"), done,
		"what they were, not what was said of them")
	require.Empty(t, elementsIn(b.kernel.Dump()))
	require.Empty(t, publishedBy(e))
	publish(t, e, "8000-8009->172.30.0.3:80-89") // released
	requireConsistent(t, b, e)
}

func TestPublishNothing(t *testing.T) {
	e, b := openFake(t)
	done, err := e.Publish(t.Context(), nat.PublishOptions{})
	require.NoError(t, err)
	require.Empty(t, done)
	done, err = e.Remove(t.Context(), nat.Removal{})
	require.NoError(t, err)
	require.Empty(t, done)
	require.Empty(t, b.kernel.Dump(), "no table for nothing")
}

// Publish returns what Mappings then tells, to the last bit: a Mapping is a map key.
func TestPublishReturnsWhatMappingsTells(t *testing.T) {
	e, b := openFake(t)
	m := nattest.Mapping(t, "0->172.30.0.2:80-82")
	m.Expires = b.clock.Now().Add(time.Hour + 1234567*time.Nanosecond)
	done, err := e.Publish(t.Context(), nat.PublishOptions{}, m)
	require.NoError(t, err)
	require.Equal(t, done, nat.Collapse(must(e.Mappings(t.Context()))))
	b.clock.advance(time.Second)
	require.Equal(t, done, nat.Collapse(must(b.open(t).Mappings(t.Context()))), "and so does the next engine")
}

func TestPublishOutOfRange(t *testing.T) {
	e, b := openFake(t)
	past := nattest.Mapping(t, "80->172.30.0.2:80")
	past.Expires = b.clock.Now()
	b.host.routes[netip.MustParsePrefix("172.30.0.255/32")] = hostnet.Route{Kind: hostnet.Broadcast}
	b.host.routes[netip.MustParsePrefix("198.18.0.0/15")] = hostnet.Route{Kind: hostnet.Other}
	tests := map[string][]nat.Mapping{
		"this host itself":                     mapAll(t, "80->"+local4+":80"),
		"is a broadcast address":               mapAll(t, "80->172.30.0.255:80"),
		"frontend 172.30.0.255 is a broadcast": mapAll(t, "172.30.0.255:80->172.30.0.2:80"),
		"forbids":                              mapAll(t, "80->198.18.0.1:80"),
		"have one address":                     mapAll(t, "172.30.0.2:80->172.30.0.2:81"),
		"it expired at 2027-01":                {past},
		"overlap":                              mapAll(t, "80->172.30.0.2:80", local4+":80->172.30.0.2:80"),
		"no backend address":                   {{Proto: nat.TCP}},
		"only 16383 ports":                     mapAll(t, "0->172.30.0.2:1-20000"),
	}
	for reason, ms := range tests {
		for name, how := range map[string]nat.PublishOptions{"publish": {}, "replace": {Replace: true}} {
			// The last of several is bad: the others must not have been published.
			_, err := e.Publish(t.Context(), how, append(mapAll(t, "7000->172.30.0.2:80", "0->172.30.0.2:80"), ms...)...)
			require.ErrorIs(t, err, nat.ErrInvalid, "%s: %s", name, reason)
			require.ErrorContains(t, err, reason, name)
			require.NotContains(t, err.Error(), "\n")
		}
	}
	require.Empty(t, b.kernel.Dump())
	require.Empty(t, publishedBy(e))
	publish(t, e, "7000->172.30.0.2:80")
}

// A backend that nothing leads to yet may be published: its route comes up later.
func TestPublishUnreachableBackend(t *testing.T) {
	e, b := openFake(t)
	b.host.routes[netip.MustParsePrefix("203.0.113.0/24")] = hostnet.Route{Kind: hostnet.Unreachable}
	publish(t, e, "80->203.0.113.1:80")
	require.Equal(t, []string{"80->203.0.113.1:80"}, publishedBy(e))
}

func TestUnpublishNotFound(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "80->172.30.0.2:80", local4+":81->172.30.0.2:80", "82->172.30.0.2:80")
	before := b.kernel.Dump()
	for text, hint := range map[string]string{
		"79->172.30.0.2:80":            "tcp 79 is not published",
		"80->172.30.0.2:80/udp":        "udp 80 is not published",
		local4 + ":80->172.30.0.2:80":  "tcp 192.0.2.1:80 is not published; tcp 80 is",
		"81->172.30.0.2:80":            "tcp 81 is not published",
		"80-82->172.30.0.2:80-82":      "tcp 81 is not published",
		"0->172.30.0.2:80":             "tcp 0 is not published",
		"0.0.0.0:82->172.30.0.2:80":    "tcp 0.0.0.0:82 is not published; tcp 82 is",
		"65535->172.30.0.2:80":         "tcp 65535",
		"[::]:82->[fd00:30::2]:80":     "; tcp 82 is",
		"127.0.0.1:80->172.30.0.2:80":  "; tcp 80 is",
		otherLocal4 + ":81->1.1.1.1:1": "tcp 192.0.2.9:81 is not published",
	} {
		for _, kill := range []bool{false, true} {
			_, err := e.Remove(t.Context(), nat.Removal{Mappings: mapAll(t, "82->1.1.1.1:1", text), Kill: kill})
			require.ErrorIs(t, err, nat.ErrNotFound, text)
			require.ErrorIs(t, err, fs.ErrNotExist, text)
			require.ErrorContains(t, err, hint)
		}
	}
	require.Equal(t, before, b.kernel.Dump())
	require.Len(t, publishedBy(e), 3)
}

// What is named twice is there once.
func TestUnpublishTwiceNamed(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "80-83->172.30.0.2:80-83")
	done, err := e.Remove(t.Context(), nat.Removal{Mappings: mapAll(t, "80-82->172.30.0.2:80-82", "81->172.30.0.2:80", "80-82->172.30.0.2:80-82")})
	require.NoError(t, err)
	require.Equal(t, mapAll(t, "80-82->172.30.0.2:80-82"), done)
	require.Equal(t, []string{"83->172.30.0.2:83"}, publishedBy(e))
	requireConsistent(t, b, e)
}

func TestPublishChoosesPorts(t *testing.T) {
	b := newTestbed()
	b.writeSysctl(t, reservedPorts, "1-3,50003,50005-50007,50009-70000,garbage,9-8")
	e := b.openWith(t, Options{NoSysctl: true, FirstPort: 50000, LastPort: 50008})
	// An explicit port is taken before one is chosen, wherever it stands.
	done := publish(t, e, "0->172.30.0.2:80", "50000->172.30.0.2:81", "0->172.30.0.2:82")
	require.Equal(t, mapAll(t, "50001->172.30.0.2:80", "50000->172.30.0.2:81", "50002->172.30.0.2:82"), done)
	done = publish(t, e, "0->172.30.0.2:80/udp") // another space
	require.Equal(t, mapAll(t, "50000->172.30.0.2:80/udp"), done)

	_, err := e.Publish(t.Context(), nat.PublishOptions{}, mapAll(t, "7000->172.30.0.2:80", "0->172.30.0.2:80-81")...)
	require.ErrorIs(t, err, alloc.ErrExhausted, "two in a row are not to be had: 50004 and 50008 are left")
	done = publish(t, e, "7000->172.30.0.2:80", local4+":0->172.30.0.2:80", "[::]:0->[fd00:30::2]:80")
	require.Equal(t, mapAll(t, "7000->172.30.0.2:80", local4+":50004->172.30.0.2:80", "[::]:50008->[fd00:30::2]:80"), done)
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "0->172.30.0.2:80"))
	require.ErrorIs(t, err, alloc.ErrExhausted)
	require.ErrorContains(t, err, "publish tcp 0: choose a port for 0->172.30.0.2:80")
	// What is kept from being chosen may be named.
	publish(t, e, "50003->172.30.0.2:80", "50006->172.30.0.2:80")

	_, err = e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "50000-50002->172.30.0.2:80-82")}})
	require.NoError(t, err)
	require.Equal(t, mapAll(t, "50000-50002->172.30.0.2:90-92"), publish(t, e, "0->172.30.0.2:90-92"))
	requireConsistent(t, b, e)
}

// A frontend of its own address leaves the port to others, and is chosen a port
// that others have on other addresses.
func TestPublishChoosesPerAddress(t *testing.T) {
	b := newTestbed()
	e := b.openWith(t, Options{NoSysctl: true, FirstPort: 50000, LastPort: 50000})
	for _, host := range []string{local4, otherLocal4, local6} {
		backend := "172.30.0.2:80"
		if host == local6 {
			host, backend = "["+host+"]", "[fd00:30::2]:80"
		}
		require.Equal(t, mapAll(t, host+":50000->"+backend), publish(t, e, host+":0->"+backend))
	}
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, local4+":0->172.30.0.2:80"))
	require.ErrorIs(t, err, alloc.ErrExhausted)
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "0->172.30.0.2:80"))
	require.ErrorIs(t, err, alloc.ErrExhausted)
}

func TestOpenRefusesBadOptions(t *testing.T) {
	for _, o := range []Options{
		{Table: "1st"}, {Table: "table"}, {Table: "a b"}, {FirstPort: 5, LastPort: 4},
		{NetNS: "/proc/self/comm"},
	} {
		_, err := Open(t.Context(), o)
		require.ErrorIs(t, err, nat.ErrInvalid, "%+v", o)
	}
	_, err := Open(t.Context(), Options{NetNS: "/run/netns/nosuch"})
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestPublishNotPermitted(t *testing.T) {
	e, b := openFake(t)
	b.kernel.FailNext("Restore", unix.EPERM)
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "80->172.30.0.2:80"))
	require.ErrorIs(t, err, fs.ErrPermission)
	require.ErrorContains(t, err, "publish tcp 80: ")
	publish(t, e, "80->172.30.0.2:80")
	b.kernel.FailNext("Update", unix.EPERM)
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, mapAll(t, "81->172.30.0.2:80", "82->172.30.0.2:80", "83->172.30.0.2:80")...)
	require.ErrorIs(t, err, fs.ErrPermission)
	require.ErrorContains(t, err, "publish tcp 81 and 2 more: ")
	_, err = e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "80->172.30.0.2:80")}})
	require.NoError(t, err)
}

// An error is one line, also when undoing failed too.
func TestUndoErrorsAreJoined(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "80->172.30.0.2:80")
	cause, undoing := errors.New("no flows today"), errors.New("no undoing either")
	b.flows.hook = func(string) error { return cause }
	updates := 0
	b.kernel.Hook(func(op string) error {
		if op == "Update" {
			if updates++; updates == 2 {
				return undoing
			}
		}
		return nil
	})
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "53->172.30.0.2:53/udp"))
	require.ErrorIs(t, err, cause)
	require.ErrorIs(t, err, undoing)
	require.NotContains(t, err.Error(), "\n")
}
