// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// TestBesideLibvirt checks what docs/beside.md says about libvirt, with its lines.
func TestBesideLibvirt(t *testing.T) {
	h := newBesideHost(t, "libvirt", "libvirtd")
	h.publish()
	// With the spanning tree protocol, a bridge forwards only after some seconds.
	h.shell(`sed -i "s/<bridge [^>]*>/<bridge name='virbr0' stp='off'\/>/" /etc/libvirt/qemu/networks/default.xml`)
	h.shell("systemctl start libvirtd; virsh net-start default")
	const to = "192.0.2.1:8083"
	vm := labtest.NewNS(t, "vm")
	labtest.MountNS(t, vm, "vm")
	plug := func() {
		labtest.Exec(t, h.top.Host, "ip", "link", "set", "vnet0", "master", "virbr0", "up")
	}
	labtest.Exec(t, h.top.Host, "ip", "link", "add", "vnet0", "type", "veth", "peer", "name", "eth0", "netns", "vm")
	plug()
	for _, args := range [][]string{
		{"addr", "add", "192.168.122.50/24", "dev", "eth0"},
		{"link", "set", "eth0", "up"},
		{"route", "add", "default", "via", "192.168.122.1"},
	} {
		labtest.Exec(t, vm, "ip", args...)
	}
	labtest.EchoTCP(t, vm, "vm", ":80")
	h.testbed.succeed(t, "add tcp 8083 192.168.122.50:80")
	reachesItself := func() {
		t.Helper()
		await(t, "the bridge to forward", func() bool {
			_, _, err := lab.Ask(t.Context(), h.top.Host, "tcp", "192.168.122.50:80", netip.AddrPort{})
			return err == nil
		})
		labtest.Reaches(t, h.top.Host, "tcp", "127.0.0.1:8083", "vm")
		labtest.Reaches(t, h.top.Client, "tcp", "[2001:db8:1::1]:8083", "vm")
		labtest.Reaches(t, vm, "tcp", "192.0.2.2:80", "outside")
	}
	open := func() { t.Helper(); reachesItself(); labtest.Reaches(t, h.top.Client, "tcp", to, "vm") }
	refused := func() {
		t.Helper()
		reachesItself()
		require.ErrorIs(t, labtest.NoAnswer(t, h.top.Client, "tcp", to), unix.ECONNREFUSED)
	}

	refused()
	h.recipe("libvirt published")
	open()
	h.shell("systemctl restart libvirtd")
	open()
	h.recipe("libvirt undo")
	refused()

	// Rules that were there before libvirt's are after them.
	h.shell("systemctl stop libvirtd; nft flush ruleset")
	h.shell(h.text("libvirt published") + "systemctl start libvirtd; virsh net-list")
	refused()
	h.machine.Write("/etc/libvirt/hooks/network", h.text("libvirt hook"), 0o755)
	h.shell("systemctl restart libvirtd; virsh net-destroy default; virsh net-start default")
	plug()
	open()
	h.allOpen()
}
