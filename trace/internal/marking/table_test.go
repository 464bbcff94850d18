// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package marking

import (
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

func TestMergeSpans(t *testing.T) {
	var prefixes []netip.Prefix
	for _, text := range []string{
		"192.0.2.1/32", "127.0.0.0/8", "127.0.0.1/32", "127.255.255.255/32", "192.0.2.0/32", "255.255.255.255/32",
		"2001:db8::1/128", "::1/128", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", "fe80::1%lo/128",
	} {
		prefixes = append(prefixes, netip.MustParsePrefix(strings.Replace(text, "%lo", "", 1)))
	}
	spans := mergeSpans(prefixes)
	a := netip.MustParseAddr
	require.Equal(t, []span{
		{a("127.0.0.0"), a("127.255.255.255")}, {a("192.0.2.0"), a("192.0.2.1")}, {a("255.255.255.255"), a("255.255.255.255")},
	}, spans[0])
	require.Len(t, spans[1], 4)
	require.Len(t, elementsOf(spans[0]), 5, "nothing is behind the last address")
	require.Equal(t, [2][]span{}, mergeSpans(nil))
}

func open(t *testing.T, ns *lab.NS) *Table {
	t.Helper()
	f, err := os.Open(ns.Path())
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	table, err := Open(int(f.Fd()), netip.Addr{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = table.Close() }) // it may be closed
	return table
}

// TestTable: the kernel has what is asked for, nft(8) lists it, and nothing stays.
func TestTable(t *testing.T) {
	ns := labtest.NewNS(t, "host")
	table, second := open(t, ns), open(t, ns)
	list := func(what ...string) string { return labtest.Exec(t, ns, "nft", append([]string{"list"}, what...)...) }
	set := func(name string) string { return list("set", "inet", table.Name(), name) }
	targets := []Target{
		{Proto: unix.IPPROTO_TCP, Port: 80},
		{Proto: unix.IPPROTO_TCP, Port: 80, V6: true},
		{Proto: unix.IPPROTO_UDP, Addr: netip.MustParseAddr("192.0.2.1"), Port: 53},
		{Proto: unix.IPPROTO_UDP, Addr: netip.MustParseAddr("fe80::1%lo"), Port: 53},
		{Proto: unix.IPPROTO_TCP, Port: 80},
	}
	require.NoError(t, table.SetTargets(targets))
	require.Contains(t, set(setAny), "elements = { ipv4 . tcp . 80,\n\t\t\t     ipv6 . tcp . 80 }")
	require.Contains(t, set(setOne4), "udp . 192.0.2.1 . 53")
	require.Contains(t, set(setOne6), "udp . fe80::1 . 53")
	require.NoError(t, table.SetTargets(targets[1:3]))
	require.Contains(t, set(setAny), "elements = { ipv6 . tcp . 80 }")
	require.NotContains(t, set(setOne6), "elements")
	for range 2 { // the second time nothing changes
		require.NoError(t, table.SetLocal([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}))
	}
	require.Contains(t, set(setLocal4), "elements = { 127.0.0.0/8 }")
	require.NoError(t, table.SetLocal([]netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}))
	require.Contains(t, set(setLocal4), "elements = { 192.0.2.1 }")
	require.NotContains(t, set(setLocal6), "elements")

	lo := []Device{{"lo", 1}}
	labtest.Exec(t, ns, "ip", "link", "add", "a0", "type", "veth", "peer", "name", "a1")
	require.NoError(t, table.Hook([]Device{{"a0", 3}}, lo))
	require.NoError(t, table.Hook([]Device{{"a0", 3}}, lo))
	require.Equal(t, 1, strings.Count(list("table", "inet", table.Name()), `hook ingress device "a0" priority -2147483648`))
	labtest.Exec(t, ns, "ip", "link", "set", "a0", "name", "b0")
	require.NoError(t, table.Hook([]Device{{"b0", 3}, {"a1", 2}}, lo))
	text := list("table", "inet", table.Name())
	require.Equal(t, 2, strings.Count(text, "hook ingress device"))
	require.Contains(t, text, `hook ingress device "b0"`)
	labtest.Exec(t, ns, "ip", "link", "del", "b0")
	require.NoError(t, table.Hook(nil, lo))
	require.NotContains(t, list("table", "inet", table.Name()), "hook ingress")
	require.Contains(t, set(setHooked), `elements = { "lo" }`)

	n, err := table.LeftOut()
	require.NoError(t, err)
	require.Zero(t, n)
	result := labtest.Run(t, ns, exec.Command(labtest.Tool(t, "nft"), "delete", "table", "inet", table.Name()))
	require.NotZero(t, result.Code, "it has an owner")
	require.NoError(t, table.Close())
	require.NoError(t, second.Close())
	require.Empty(t, list("ruleset"))
}

// TestManyTargets: sixty thousand frontends are a matter of a second, and of elements, not of rules.
func TestManyTargets(t *testing.T) {
	ns := labtest.NewNS(t, "host")
	table := open(t, ns)
	var targets []Target
	for i := range 60_000 {
		targets = append(targets, Target{Proto: unix.IPPROTO_TCP, Port: uint16(i)})
	}
	began := time.Now()
	require.NoError(t, table.SetTargets(targets))
	require.NoError(t, table.SetTargets(targets[:59_999]))
	require.NoError(t, table.SetTargets(nil))
	require.Less(t, time.Since(began), labtest.Stretch(10*time.Second))
	t.Log(time.Since(began))
}

// TestOpenWithoutPrivilege: the error says so.
func TestOpenWithoutPrivilege(t *testing.T) {
	labtest.Require(t)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread goes with its privileges
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			done <- err
			return
		}
		_, err := Open(0, netip.Addr{})
		done <- err
	}()
	require.ErrorIs(t, <-done, fs.ErrPermission)
}
