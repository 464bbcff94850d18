// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

const (
	forwarding4   = "net/ipv4/ip_forward"
	forwarding6   = "net/ipv6/conf/all/forwarding"
	conf6         = "net/ipv6/conf"
	reservedPorts = "net/ipv4/ip_local_reserved_ports"
)

// kernelWith makes the sysctls of a host with three interfaces; force adds those of
// Linux 6.17.
func (b *testbed) kernelWith(tb testing.TB, force bool) {
	tb.Helper()
	b.host.interfaces = []hostnet.Interface{
		{Name: "lo", Loopback: true, Addrs: []netip.Addr{netip.MustParseAddr("2001:db8::99")}},
		{Name: "eth0", Addrs: []netip.Addr{netip.MustParseAddr(local6)}}, {Name: "br0"}, {Name: "wlan0.7"},
	}
	b.writeSysctl(tb, forwarding4, "0")
	b.writeSysctl(tb, forwarding6, "0")
	for i, name := range []string{"lo", "eth0", "br0", "wlan0.7", "all", "default"} {
		b.writeSysctl(tb, path.Join(conf6, name, "accept_ra"), []string{"1", "1", "2", "1", "1", "1"}[i])
		if force {
			b.writeSysctl(tb, path.Join(conf6, name, "force_forwarding"), "0")
		}
	}
}

// on lists the sysctls that are 1, but for those that were never 0.
func (b *testbed) on(tb testing.TB) []string {
	tb.Helper()
	var on []string
	tree := os.DirFS(b.sysctl)
	require.NoError(tb, fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Base(name) == "accept_ra" || path.Base(name) == "x" {
			return err
		}
		if b.readSysctl(tb, name) == "1" {
			on = append(on, name)
		}
		return nil
	}))
	return on
}

func TestForwarding(t *testing.T) {
	force := func(name string) string { return path.Join(conf6, name, "force_forwarding") }
	tests := map[string]struct {
		force bool
		texts []string
		want  []string
	}{
		"IPv4":                     {false, []string{"80->172.30.0.2:80"}, []string{forwarding4}},
		"IPv6":                     {false, []string{"80->[fd00:30::2]:80"}, []string{forwarding6}},
		"both":                     {false, []string{"80->[fd00:30::2]:80", "81->172.30.0.2:80"}, []string{forwarding4, forwarding6}},
		"loopback":                 {false, []string{"127.0.0.1:80->172.30.0.2:80", "[::1]:80->[fd00:30::2]:80"}, nil},
		"between the families":     {true, []string{local4 + ":80->[fd00:30::2]:80", "[::]:80->172.30.0.2:80"}, nil},
		"IPv6, single interfaces":  {true, []string{"80->[fd00:30::2]:80"}, []string{force("br0"), force("eth0")}},
		"IPv6, by an uplink alone": {true, []string{"80->[2001:db8:9::2]:80"}, []string{force("eth0")}},
		"IPv4, single interfaces":  {true, []string{"80->172.30.0.2:80"}, []string{forwarding4}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			b := newTestbed()
			b.kernelWith(t, test.force)
			e := b.openWith(t, Options{})
			publish(t, e, test.texts...)
			require.Equal(t, test.want, b.on(t))
			_, err := e.Apply(t.Context())
			require.NoError(t, err)
			require.NoError(t, e.Purge(t.Context()))
			require.Equal(t, test.want, b.on(t), "others may rely on it by then")
		})
	}
}

// A second mapping may need another interface.
func TestForwardingOfMoreInterfaces(t *testing.T) {
	b := newTestbed()
	b.kernelWith(t, true)
	b.host.onLink("wlan0.7", "fd00:7::/64")
	e := b.openWith(t, Options{})
	publish(t, e, "80->[fd00:30::2]:80")
	publish(t, e, "81->[fd00:7::2]:80")
	require.Equal(t, []string{
		"net/ipv6/conf/br0/force_forwarding", "net/ipv6/conf/eth0/force_forwarding", "net/ipv6/conf/wlan0.7/force_forwarding",
	}, b.on(t))
}

func TestForwardingIsLeftAlone(t *testing.T) {
	t.Run("if asked", func(t *testing.T) {
		b := newTestbed()
		b.kernelWith(t, false)
		publish(t, b.openWith(t, Options{NoSysctl: true}), "80->[fd00:30::2]:80", "81->172.30.0.2:80")
		require.Empty(t, b.on(t))
	})
	t.Run("if it is on", func(t *testing.T) {
		b := newTestbed()
		b.kernelWith(t, true)
		b.writeSysctl(t, forwarding4, "1")
		b.writeSysctl(t, forwarding6, "1")
		var log bytes.Buffer
		e := b.openWith(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		publish(t, e, "80->[fd00:30::2]:80", "81->172.30.0.2:80")
		require.Equal(t, []string{forwarding4, forwarding6}, b.on(t), "no interface is forced")
		require.Empty(t, log.String())
	})
	t.Run("if there is no need", func(t *testing.T) {
		b := newTestbed()
		b.kernelWith(t, false)
		e := b.openWith(t, Options{})
		_, err := e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "80->"+local4+":80"))
		require.ErrorIs(t, err, nat.ErrInvalid)
		require.Empty(t, b.on(t))
	})
}

// What was turned on, and who may lose a default route by it, is in the log.
func TestForwardingIsLogged(t *testing.T) {
	b := newTestbed()
	b.kernelWith(t, false)
	var log bytes.Buffer
	e := b.openWith(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	publish(t, e, "80->172.30.0.2:80")
	require.Contains(t, log.String(), "sysctl="+forwarding4)
	require.NotContains(t, log.String(), "accept_ra")
	publish(t, e, "81->[fd00:30::2]:80")
	require.Contains(t, log.String(), "sysctl="+forwarding6)
	require.Contains(t, log.String(), `interfaces="[eth0 wlan0.7]"`)
	log.Reset()
	publish(t, e, "82->[fd00:30::2]:80", "83->172.30.0.2:80")
	require.Empty(t, log.String(), "once")
}

// A call that fails has turned nothing on, whatever fails and however often.
func TestForwardingIsRestored(t *testing.T) {
	cause := errors.New("no")
	for _, force := range []bool{false, true} {
		for name, spoil := range map[string]func(*testbed, error){
			"flows": func(b *testbed, err error) {
				b.flows.hook = func(string) error { return err }
			},
			"table": func(b *testbed, err error) {
				b.kernel.Hook(func(op string) error {
					if op == "Restore" || op == "Update" {
						return err
					}
					return nil
				})
			},
		} {
			b := newTestbed()
			b.kernelWith(t, force)
			e := b.openWith(t, Options{})
			ms := mapAll(t, "80->[fd00:30::2]:80/udp", "81->172.30.0.2:80/udp")
			spoil(b, cause)
			for range 2 {
				_, err := e.Publish(t.Context(), nat.PublishOptions{}, ms...)
				require.ErrorIs(t, err, cause, name)
				require.Empty(t, b.on(t), name)
			}
			spoil(b, nil)
			_, err := e.Publish(t.Context(), nat.PublishOptions{}, ms...)
			require.NoError(t, err)
			require.Len(t, b.on(t), map[bool]int{false: 2, true: 3}[force], "what was restored is not taken for on")
		}
	}
}

// A value that was there before goes back as it was, even if it is no 0.
func TestForwardingRestoresTheValue(t *testing.T) {
	b := newTestbed()
	b.kernelWith(t, false)
	b.writeSysctl(t, forwarding6, "2")
	e := b.openWith(t, Options{})
	b.flows.hook = func(string) error { return errors.New("no") }
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "80->[fd00:30::2]:80/udp"))
	require.Error(t, err)
	require.Equal(t, "2", b.readSysctl(t, forwarding6))
}

func TestForwardingFails(t *testing.T) {
	remove := func(b *testbed, name string) { require.NoError(t, os.RemoveAll(path.Join(b.sysctl, name))) }
	tests := map[string]struct {
		spoil func(*testbed)
		is    error
	}{
		"without IPv6":        {func(b *testbed) { remove(b, "net/ipv6") }, errors.ErrUnsupported},
		"without ip_forward":  {func(b *testbed) { remove(b, forwarding4) }, fs.ErrNotExist},
		"a directory instead": {func(b *testbed) { remove(b, forwarding6); b.writeSysctl(t, forwarding6+"/x", "1") }, nil},
	}
	for name, test := range tests {
		b := newTestbed()
		b.kernelWith(t, false)
		test.spoil(b)
		e := b.openWith(t, Options{})
		// The one that works is put back when the other does not.
		_, err := e.Publish(t.Context(), nat.PublishOptions{}, mapAll(t, "80->172.30.0.2:80", "81->[fd00:30::2]:80")...)
		require.Error(t, err, name)
		if test.is != nil {
			require.ErrorIs(t, err, test.is, name)
		}
		require.Empty(t, b.kernel.Dump(), name)
		require.Empty(t, b.on(t), name)
		requireReserved(t, e)
	}
}

// An interface may go while forwarding is being turned on.
func TestForwardingWithoutAnInterface(t *testing.T) {
	b := newTestbed()
	b.kernelWith(t, true)
	require.NoError(t, os.RemoveAll(path.Join(b.sysctl, conf6, "eth0")))
	publish(t, b.openWith(t, Options{}), "80->[fd00:30::2]:80")
	require.Equal(t, []string{"net/ipv6/conf/br0/force_forwarding"}, b.on(t))
}

func TestReservedPortsAreNotRead(t *testing.T) {
	b := newTestbed()
	b.writeSysctl(t, reservedPorts+"/x", "") // a directory where the file belongs
	_, err := b.tryOpen(Options{NoSysctl: true})
	require.ErrorContains(t, err, "read sysctl")
}
