// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"encoding/binary"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/netns"
)

// Without a privilege most can be read, and what cannot is said.
func TestUnread(t *testing.T) {
	l := newHostLab(t)
	f, err := os.Open(l.host.Path())
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	var texts []string
	var failed error
	netns.OnThread(func() {
		if failed = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); failed != nil {
			return
		}
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if failed = unix.Capset(&header, &none[0]); failed != nil {
			return
		}
		texts, failed = readAll()
	})
	require.NoError(t, failed)
	require.Equal(t, []string{
		"read tcx programs of eth0: operation not permitted",
		"list entries of connection tracking: operation not permitted",
		"ask neighbour 192.0.2.2: operation not permitted",
	}, texts)
}

func readAll() (texts []string, err error) {
	h, err := Open(0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = h.Close() }()
	eth0, err := h.LinkByName("eth0")
	if err != nil {
		return nil, err
	}
	client := netip.MustParseAddr("192.0.2.2")
	if _, _, err = h.Lookup(RouteQuery{Dst: netip.MustParseAddr("172.30.0.2"), Src: client, Iif: eth0.Index}); err != nil {
		return nil, err
	}
	if _, err = h.Addresses(); err != nil {
		return nil, err
	}
	if _, err = h.Qdiscs(eth0.Index); err != nil {
		return nil, err
	}
	if _, _, err = h.Setting(true, eth0.Index, "rp_filter"); err != nil {
		return nil, err
	}
	if _, err = h.Neighbour(client, eth0.Index); err != nil {
		return nil, err
	}
	if _, err = h.Sockets(unix.IPPROTO_TCP, 1); err != nil {
		return nil, err
	}
	_, _ = h.Filters(eth0.Index, false)
	_, _ = h.EntriesOf(unix.IPPROTO_TCP, client, netip.AddrPortFrom(client, 1))
	h.Probe(context.Background(), unix.IPPROTO_UDP, netip.AddrPortFrom(client, 9), 1)
	return h.Unread(), nil
}

// loadProgram loads a program of eBPF that returns a number.
func loadProgram(t *testing.T, kind, attachType uint32, result int32) (fd int) {
	t.Helper()
	insns := make([]byte, 16)
	insns[0], insns[8] = 0xb7, 0x95 // r0 = result; exit
	binary.NativeEndian.PutUint32(insns[4:], uint32(result))
	license := []byte("GPL\x00")
	var pinner runtime.Pinner
	pinner.Pin(&insns[0])
	pinner.Pin(&license[0])
	defer pinner.Unpin()
	attr := struct {
		kind, count    uint32
		insns, license uint64
		_              [44]byte
		attachType     uint32
		_              [48]byte
	}{kind: kind, count: 2, attachType: attachType, insns: uint64(uintptr(unsafe.Pointer(&insns[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0])))}
	n, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno == unix.EPERM {
		labtest.Skip(t, "loading a program of eBPF is not permitted")
	}
	require.Zero(t, errno)
	t.Cleanup(func() { _ = unix.Close(int(n)) })
	return int(n)
}

// Programs of XDP and of tcx are seen, and what they do is not known.
func TestPrograms(t *testing.T) {
	l := newHostLab(t)
	xdp := loadProgram(t, unix.BPF_PROG_TYPE_XDP, 0, 2)
	handle, err := l.host.Handle()
	require.NoError(t, err)
	defer handle.Close()
	h := open(t, l.host)
	eth0, err := h.LinkByName("eth0")
	require.NoError(t, err)
	require.Empty(t, eth0.XDP)
	require.NoError(t, l.host.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetXdpFdWithFlags(link, xdp, 1<<1) // generic
	}))
	cls := loadProgram(t, unix.BPF_PROG_TYPE_SCHED_CLS, 0, 0)
	attach := struct {
		program, link, kind, flags uint32
		_                          [48]byte
	}{program: uint32(cls), link: uint32(eth0.Index), kind: bpfTCXIngress}
	var fd uintptr
	require.NoError(t, l.host.Do(func() error {
		n, err := bpfCall(unix.BPF_LINK_CREATE, unsafe.Pointer(&attach), unsafe.Sizeof(attach))
		fd = uintptr(n)
		return err
	}))
	defer func() { _ = unix.Close(int(fd)) }()
	h = open(t, l.host)
	eth0, err = h.LinkByName("eth0")
	require.NoError(t, err)
	require.Len(t, eth0.XDP, 1)
	require.Equal(t, "generic", eth0.XDP[0].Mode)
	require.NotZero(t, eth0.XDP[0].Program)
	list, err := h.Filters(eth0.Index, false)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, "tcx", list[0].Kind)
	require.NotZero(t, list[0].Program)
	v, by, err := h.Classify(eth0.Index, false, frame(6, "192.0.2.2", "192.0.2.1", 80), 14, unix.ETH_P_IP)
	require.NoError(t, err)
	require.Equal(t, TCUnknown, v)
	require.Equal(t, list[0], by)
	v, _, err = h.Classify(eth0.Index, true, frame(6, "192.0.2.2", "192.0.2.1", 80), 14, unix.ETH_P_IP)
	require.NoError(t, err)
	require.Equal(t, TCPasses, v)
}

// A program at a hook of netfilter is seen.
func TestNFPrograms(t *testing.T) {
	l := newHostLab(t)
	program := loadProgram(t, 32, 45, 1) // BPF_PROG_TYPE_NETFILTER, BPF_NETFILTER
	before, err := open(t, l.host).NFPrograms()
	require.NoError(t, err)
	attach := struct {
		program, _, kind, flags, family, hook uint32
		priority                              int32
		_                                     [36]byte
	}{program: uint32(program), kind: 45, family: unix.NFPROTO_IPV4, hook: unix.NF_INET_FORWARD, priority: -5}
	var fd int
	require.NoError(t, l.host.Do(func() (err error) {
		fd, err = bpfCall(unix.BPF_LINK_CREATE, unsafe.Pointer(&attach), unsafe.Sizeof(attach))
		return err
	}))
	after, err := open(t, l.host).NFPrograms()
	require.NoError(t, err)
	require.Len(t, after, len(before)+1)
	last := after[len(after)-1]
	require.Equal(t, NFProgram{last.Program, unix.NFPROTO_IPV4, unix.NF_INET_FORWARD, -5}, last)
	require.Contains(t, last.String(), "of eBPF at hook forward, priority -5")
	require.NoError(t, unix.Close(fd))
}
