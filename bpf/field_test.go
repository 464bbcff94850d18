// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/stretchr/testify/require"
)

// TestFindField: what is found in the kernel's types is what package btf finds in them.
func TestFindField(t *testing.T) {
	f, err := os.Open(kernelTypes)
	if errors.Is(err, fs.ErrNotExist) {
		t.Log(err)
		return
	}
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	types, err := readTypes()
	if errors.Is(err, errTypes) {
		t.Log(err) // emulation of another byte order
		return
	}
	require.NoError(t, err)
	spec, err := btf.LoadKernelSpec()
	require.NoError(t, err)
	defer btf.FlushKernelSpec()
	for name, of := range map[string]string{"skc_ipv6only": "sock_common", "skc_rcv_saddr": "sock_common", "nd_net": "net_device", "sk_userlocks": "sock"} {
		var s *btf.Struct
		require.NoError(t, spec.TypeByName(of, &s))
		own, ok := types.find(kindStruct, of)
		require.True(t, ok, of)
		require.Equal(t, s.Size, types.size(own))
		want, _, ok := types.member(own, name)
		require.True(t, ok, name)
		// Not skc_rcv_saddr, which is in structures without a name.
		if i := slices.IndexFunc(s.Members, func(m btf.Member) bool { return m.Name == name }); i >= 0 {
			require.Equal(t, btf.Bits(want), s.Members[i].Offset, name)
		}
		got, err := findField(f, name)
		if errors.Is(err, errTypes) {
			t.Log(err) // emulation of another byte order
			return
		}
		require.NoError(t, err, name)
		require.Equal(t, want, got, name)
	}
	_, err = findField(f, "no_such_field")
	require.ErrorIs(t, err, io.EOF)
}

func TestFindFieldInGarbage(t *testing.T) {
	for _, b := range [][]byte{nil, make([]byte, 100), bytes.Repeat([]byte{0x9f, 0xeb}, 50), bytes.Repeat([]byte{0xeb, 0x9f}, 50)} {
		_, err := findField(bytes.NewReader(b), "x")
		require.Error(t, err)
	}
}
