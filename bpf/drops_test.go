// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/netns"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

func TestMember(t *testing.T) {
	word := &btf.Int{Name: "u32", Size: 4}
	inner := &btf.Union{Size: 8, Members: []btf.Member{{Name: "dev", Type: word}, {Name: "scratch", Type: word}}}
	headers := &btf.Struct{Size: 4, Members: []btf.Member{{Name: "flag", Type: word, Offset: 9, BitfieldSize: 1}}}
	skb := &btf.Struct{Name: "sk_buff", Size: 32, Members: []btf.Member{
		{Name: "next", Type: word},
		{Type: inner, Offset: 16 * 8},
		{Type: &btf.Const{Type: headers}, Offset: 24 * 8},
	}}
	reason := &btf.Enum{Name: "skb_drop_reason", Size: 4, Values: []btf.EnumValue{{Name: "SKB_DROP_REASON_NO_SOCKET", Value: 3}, {Name: "SKB_CONSUMED", Value: 1}}}
	builder, err := btf.NewBuilder([]btf.Type{&btf.Typedef{Name: "t", Type: skb}, reason, &btf.Pointer{Target: skb}})
	require.NoError(t, err)
	order := binary.ByteOrder(binary.LittleEndian)
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		order = binary.BigEndian
	}
	b, err := builder.Marshal(nil, &btf.MarshalOptions{Order: order})
	require.NoError(t, err)
	types, err := parseTypes(b)
	require.NoError(t, err)
	own, ok := types.find(kindStruct, "sk_buff")
	require.True(t, ok)
	require.EqualValues(t, 32, types.size(own))
	for name, want := range map[string]uint32{"next": 0, "dev": 128, "scratch": 128, "flag": 24*8 + 9} {
		offset, typ, ok := types.member(own, name)
		require.True(t, ok, name)
		require.Equal(t, want, offset, name)
		require.EqualValues(t, kindInt, typ.kind())
		_, _, ok = types.member(typ, name)
		require.False(t, ok)
	}
	_, _, ok = types.member(own, "none")
	require.False(t, ok)
	require.Equal(t, map[uint32]string{3: "NO_SOCKET", 1: "CONSUMED"}, reasonsOf(types))
	for n := range b { // what is cut is refused, or has less in it
		if types, err := parseTypes(b[:n]); err == nil {
			t.Fatal(types)
		}
	}
}

// TestAssemble: the program has an end for each jump, with and without what older kernels lack.
func TestAssemble(t *testing.T) {
	for _, reason := range []bool{false, true} {
		for _, mask := range []int32{0, 4} {
			list := assemble(offsets{pointer: asm.DWord, traceMask: mask}, 1<<32-1, reason, 3, 4)
			symbols, err := list.SymbolOffsets()
			require.NoError(t, err)
			for name := range list.ReferenceOffsets() {
				require.Contains(t, symbols, name)
			}
			require.Equal(t, asm.Return(), list[len(list)-1])
		}
	}
}

func TestDecode(t *testing.T) {
	d := &Drops{reasons: map[uint32]string{3: "NO_SOCKET"}}
	b := make([]byte, eventSize)
	binary.NativeEndian.PutUint64(b[eventAddress:], 7)
	binary.NativeEndian.PutUint32(b[eventReason:], 3)
	binary.NativeEndian.PutUint32(b[eventInterface:], 2)
	b[eventHeaders] = 0x45
	drop, ok := d.decode(b)
	require.True(t, ok)
	require.Equal(t, Drop{Reason: "NO_SOCKET", Address: 7, Interface: 2, Headers: b[eventHeaders:eventSize]}, drop)
	binary.NativeEndian.PutUint32(b[eventReason:], 0x20001)
	drop, _ = d.decode(b)
	require.Equal(t, "reason 131073", drop.Reason)
	drop, _ = (&Drops{}).decode(b)
	require.Empty(t, drop.Reason)
	_, ok = d.decode(b[1:])
	require.False(t, ok)
}

// open opens Drops of a namespace. False: this machine may not, or cannot.
func open(t *testing.T, ns *lab.NS) (*Drops, bool) {
	t.Helper()
	inode, err := netns.Inode(ns.Path())
	require.NoError(t, err)
	d, err := OpenDrops(inode)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
		t.Log(err) // tests of a user namespace, or a kernel without BTF
		return nil, false
	}
	require.NoError(t, err)
	return d, true
}

// sendByte sends a datagram from a namespace.
func sendByte(t *testing.T, ns *lab.NS, addr string) {
	t.Helper()
	c, err := ns.Dial(context.Background(), "udp", addr)
	require.NoError(t, err)
	_, err = c.Write([]byte("x"))
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

// TestDrops: the reasons of real packets, of the namespace and the ports that are watched, and of no others.
func TestDrops(t *testing.T) {
	labtest.LeakCheck(t)
	ns, other := labtest.NewNS(t, "host"), labtest.NewNS(t, "other")
	d, ok := open(t, ns)
	if !ok {
		return
	}
	require.NoError(t, d.Watch(9, UDP))
	require.NoError(t, d.Watch(10, TCP))
	ctx, cancel := context.WithCancel(context.Background())
	drops, ended := make(chan Drop, 100), make(chan error, 1)
	go func() { ended <- d.Run(ctx, func(drop Drop) { drops <- drop }) }()
	sendByte(t, other, "127.0.0.1:9")
	sendByte(t, ns, "127.0.0.1:10") // watched for TCP alone
	sendByte(t, ns, "127.0.0.1:11")
	sendByte(t, ns, "[::1]:9")
	sendByte(t, ns, "127.0.0.1:9")
	for _, want := range []struct {
		function string
		version  byte
		dst      netip.Addr
		port     int
	}{{"__udp6_lib_rcv", 6, netip.IPv6Loopback(), 42}, {"__udp4_lib_rcv", 4, netip.MustParseAddr("127.0.0.1"), 22}} {
		select {
		case drop := <-drops:
			require.Equal(t, want.version, drop.Headers[0]>>4)
			require.EqualValues(t, 9, binary.BigEndian.Uint16(drop.Headers[want.port:]))
			require.Equal(t, 1, drop.Interface)
			if d.HasReasons() {
				require.Equal(t, "NO_SOCKET", drop.Reason)
			}
			if f := d.Function(drop.Address); f != "" { // it may be hidden
				require.Contains(t, f, "udp")
			}
		case <-time.After(labtest.Stretch(5 * time.Second)):
			t.Fatal("no drop was told of")
		}
	}
	require.NoError(t, d.Watch(9, 0))
	sendByte(t, ns, "127.0.0.1:9")
	cancel()
	require.NoError(t, <-ended)
	require.Empty(t, drops)
	require.NoError(t, d.Close())
}

// Run returns only after whatever it has started, so that Close may follow: with packets to be read, it sees that its
// context is done before it is woken.
func TestRunThenClose(t *testing.T) {
	labtest.LeakCheck(t)
	ns := labtest.NewNS(t, "host")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for range 10 {
		d, ok := open(t, ns)
		if !ok {
			return
		}
		require.NoError(t, d.Watch(9, UDP))
		sendByte(t, ns, "127.0.0.1:9")
		require.NoError(t, d.Run(ctx, func(Drop) {}))
		require.NoError(t, d.Close())
	}
}

// TestOpenDropsWithoutPrivilege: the error says so.
func TestOpenDropsWithoutPrivilege(t *testing.T) {
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
		_, err := OpenDrops(1)
		done <- err
	}()
	err := <-done
	require.True(t, errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported), "%v", err)
}
