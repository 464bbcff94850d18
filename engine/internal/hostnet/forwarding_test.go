// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"net/netip"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// The tests of package engine show what a publish turns on; here are the answers of a
// kernel, and the state of each kind of host.

// Interfaces are asked of the namespace that the tests have to themselves.
func TestInterfaces(t *testing.T) {
	r, err := OpenRoutes(&Namespace{})
	require.NoError(t, err)
	defer r.Close()
	is, err := r.Interfaces()
	require.NoError(t, err)
	require.NotEmpty(t, is)
	require.Equal(t, "lo", is[0].Name)
	require.True(t, is[0].Loopback)
}

// IPv6 is forwarded on interfaces by which clients can come: also on those with no other
// address than a link-local one, but not on ports of a bridge, which receives their packets.
func TestForwardingLinks(t *testing.T) {
	fe80, global := netip.MustParseAddr("fe80::1"), netip.MustParseAddr("2001:db8::1")
	is := []Interface{
		{Name: "lo", Loopback: true, Addrs: []netip.Addr{global}},
		{Name: "lan0", Addrs: []netip.Addr{fe80, global}},
		{Name: "ppp0", Addrs: []netip.Addr{fe80}},
		{Name: "d0", Dummy: true, Addrs: []netip.Addr{fe80}},
		{Name: "d1", Dummy: true, Addrs: []netip.Addr{global}},
		{Name: "port", Port: true, Addrs: []netip.Addr{fe80}},
		{Name: "port1", Port: true, Addrs: []netip.Addr{fe80, global}},
		{Name: "four", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
		{Name: "br0"},
	}
	root := t.TempDir()
	write := func(name string) {
		file := path.Join(root, conf6, name)
		require.NoError(t, os.MkdirAll(path.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte("0\n"), 0o600))
	}
	write("all/forwarding")
	write("all/force_forwarding")
	for _, i := range is {
		write(i.Name + "/force_forwarding")
	}
	f := &Forwarding{
		Sysctls:    Sysctls{Namespace: &Namespace{}, Root: root},
		Interfaces: func() ([]Interface, error) { return is, nil },
	}
	missing, err := f.Missing(ForwardingNeeds{IPv6: true, Links6: []string{"br0"}})
	require.NoError(t, err)
	var names []string
	for _, s := range missing {
		names = append(names, path.Base(path.Dir(s.Name)))
	}
	require.Equal(t, []string{"lan0", "ppp0", "d1", "port1", "br0"}, names)
}

// Ports of bridges and bonds are told from other interfaces, such as those of a VRF.
func TestInterfacesOfABridge(t *testing.T) {
	ns := labtest.NewNS(t, "ports")
	for _, line := range []string{"add br0 type bridge", "add p0 type veth peer name p1", "set p0 master br0"} {
		labtest.Exec(t, ns, "ip", append([]string{"link"}, strings.Fields(line)...)...)
	}
	r, err := OpenRoutes(namespaceOf(t, ns))
	require.NoError(t, err)
	defer r.Close()
	is, err := r.Interfaces()
	require.NoError(t, err)
	var ports []string
	for _, i := range is {
		if i.Port {
			ports = append(ports, i.Name)
		}
	}
	require.Equal(t, []string{"p0"}, ports)
}

// A setting is written once and restored to its old value.
func TestForwarding(t *testing.T) {
	root := t.TempDir()
	write := func(name, value string) {
		file := path.Join(root, name)
		require.NoError(t, os.MkdirAll(path.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(value+"\n"), 0o600))
	}
	write(forwarding4, "0")
	write(forwarding6, "2")
	f := &Forwarding{
		Sysctls: Sysctls{Namespace: &Namespace{}, Root: root},
		Interfaces: func() ([]Interface, error) {
			return []Interface{{Name: "eth0", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}}}, nil
		},
	}
	state := func() [2]ForwardingState {
		four, six, err := f.State()
		require.NoError(t, err)
		return [2]ForwardingState{four, six}
	}
	both := ForwardingNeeds{IPv4: true, IPv6: true}
	require.Equal(t, [2]ForwardingState{}, state())
	changed, atRisk, err := f.TurnOn(both)
	require.NoError(t, err)
	require.Empty(t, atRisk, "no interface accepts router advertisements")
	require.Equal(t, []Setting{{forwarding4, "0", "1"}, {forwarding6, "2", "1"}}, changed)
	require.Equal(t, [2]ForwardingState{ForwardingOn, ForwardingOn}, state())
	again, _, err := f.TurnOn(both)
	require.NoError(t, err)
	require.Empty(t, again)

	// What others change is noticed once the engine looks again.
	write(forwarding4, "0")
	again, _, err = f.TurnOn(both)
	require.NoError(t, err)
	require.Empty(t, again)
	f.Forget()
	missing, err := f.Missing(both)
	require.NoError(t, err)
	require.Equal(t, []Setting{{forwarding4, "0", "1"}}, missing)
	again, _, err = f.TurnOn(both)
	require.NoError(t, err)
	require.Equal(t, missing, again)
	// The switch of a single interface counts, if packets come or go by it.
	write("net/ipv4/conf/eth0/forwarding", "0")
	write("net/ipv4/conf/eth1/forwarding", "0")
	f.Forget()
	require.Equal(t, [2]ForwardingState{ForwardingPartly, ForwardingOn}, state())
	again, _, err = f.TurnOn(both)
	require.NoError(t, err)
	require.Equal(t, []Setting{{"net/ipv4/conf/eth0/forwarding", "0", "1"}}, again)

	require.NoError(t, f.Restore(changed))
	require.Equal(t, [2]ForwardingState{}, state())

	can, err := f.PerInterface()
	require.NoError(t, err)
	require.False(t, can)
	write("net/ipv6/conf/all/force_forwarding", "0")
	write("net/ipv6/conf/eth0/force_forwarding", "0")
	can, err = f.PerInterface()
	require.NoError(t, err)
	require.True(t, can)
	changed, _, err = f.TurnOn(ForwardingNeeds{IPv6: true})
	require.NoError(t, err)
	require.Equal(t, []Setting{{"net/ipv6/conf/eth0/force_forwarding", "0", "1"}}, changed)
	require.Equal(t, [2]ForwardingState{ForwardingOff, ForwardingPartly}, state())
}
