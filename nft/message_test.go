// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// errorMessage is an answer as the kernel sends it: the error number, the header of
// the request and, with extended acknowledgement, attributes.
func errorMessage(seq uint32, errno unix.Errno, flags uint16, behind ...byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, 0)
	b = binary.NativeEndian.AppendUint16(b, unix.NLMSG_ERROR)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(-int32(errno)))
	b = binary.NativeEndian.AppendUint32(b, unix.SizeofNlMsghdr)
	b = append(b, make([]byte, unix.SizeofNlMsghdr-4)...)
	return closeMessage(append(b, behind...), 0)
}

// explanation is the kernel's own words and where they point to.
func explanation(text string, offset uint32) []byte {
	b := appendString(nil, unix.NLMSGERR_ATTR_MSG, text)
	return appendAttr(b, unix.NLMSGERR_ATTR_OFFS, binary.NativeEndian.AppendUint32(nil, offset))
}

const explainedFlags = unix.NLM_F_CAPPED | unix.NLM_F_ACK_TLVS

func only(t *testing.T, b []byte) message {
	t.Helper()
	m := messages{rest: b}
	require.True(t, m.next())
	require.Empty(t, m.rest)
	return m.message
}

func TestDecodeAnswer(t *testing.T) {
	request := func(n int) []byte { return make([]byte, n) }
	whole := errorMessage(1, unix.EINVAL, unix.NLM_F_ACK_TLVS, append(request(24), explanation("no", 40)...)...)
	binary.NativeEndian.PutUint32(whole[20:], unix.SizeofNlMsghdr+24) // the request is quoted whole
	for _, tt := range []struct {
		name string
		b    []byte
		want answer
	}{
		{"acknowledgement", errorMessage(1, 0, unix.NLM_F_CAPPED), answer{}},
		{"error", errorMessage(1, unix.EEXIST, unix.NLM_F_CAPPED), answer{errno: unix.EEXIST}},
		{"explained", errorMessage(1, unix.EEXIST, explainedFlags, explanation("twice", 84)...), answer{unix.EEXIST, "twice", 84}},
		{"request quoted", whole, answer{unix.EINVAL, "no", 40}},
		{"flag but nothing behind", errorMessage(1, unix.EPERM, explainedFlags), answer{errno: unix.EPERM}},
		{"short offset", errorMessage(1, unix.EPERM, explainedFlags, appendAttr(nil, unix.NLMSGERR_ATTR_OFFS, []byte{1, 2})...), answer{errno: unix.EPERM}},
		{"unknown attribute", errorMessage(1, unix.EPERM, explainedFlags, append(appendBE32(nil, 77, 1), explanation("x", 1)...)...), answer{unix.EPERM, "x", 1}},
		{"no NUL", errorMessage(1, unix.EPERM, explainedFlags, appendAttr(nil, unix.NLMSGERR_ATTR_MSG, []byte("abc"))...), answer{errno: unix.EPERM, text: "abc"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := decodeAnswer(only(t, tt.b))
			require.NoError(t, err)
			require.Equal(t, tt.want, a)
		})
	}
	for _, code := range []uint32{1, 0x7fffffff, 0x80000000} {
		b := errorMessage(1, 0, 0)
		binary.NativeEndian.PutUint32(b[16:], code)
		_, err := decodeAnswer(only(t, b))
		require.ErrorContains(t, err, "error code")
	}
	_, err := decodeAnswer(message{payload: []byte{1, 2, 3}})
	require.ErrorIs(t, err, errShort)
	// The request's length is the kernel's word, not to be trusted.
	for _, n := range []uint32{0, 3, 0x7fffffff, 0xffffffff} {
		binary.NativeEndian.PutUint32(whole[20:], n)
		a, err := decodeAnswer(only(t, whole))
		require.NoError(t, err)
		require.Equal(t, unix.EINVAL, a.errno)
	}
}

func TestAnswerError(t *testing.T) {
	require.NoError(t, answer{}.err())
	err := answer{errno: unix.ENOENT, text: "no table"}.err()
	require.EqualError(t, err, "no such file or directory (no table)")
	require.ErrorIs(t, err, unix.ENOENT)
	require.Equal(t, unix.ENOENT, answer{errno: unix.ENOENT}.err())
}

func TestMessagesCutShort(t *testing.T) {
	b := append(errorMessage(1, unix.EPERM, 0), errorMessage(2, 0, 0)...)
	for n := range len(b) {
		m := messages{rest: b[:n]}
		count := 0
		for m.next() {
			count++
		}
		whole := n == 0 || n == len(b)/2
		require.Equal(t, whole, m.err == nil, n)
		require.Equal(t, n/(len(b)/2), count)
	}
	m := messages{rest: errorMessage(1, 0, 0)}
	binary.NativeEndian.PutUint32(m.rest, 15) // shorter than its header
	require.False(t, m.next())
	require.ErrorIs(t, m.err, errShort)
	require.False(t, m.next(), "it stays where it is")
	require.ErrorIs(t, message{payload: []byte{1}}.attributes().err, errShort)
}

func TestAttrsCutShort(t *testing.T) {
	b := appendString(appendBE64(nil, 1, 7), 2, "abc")
	for n := range len(b) + 1 {
		a := attrs{rest: b[:n]}
		for a.next() {
			require.LessOrEqual(t, len(a.payload), 8)
		}
		require.Equal(t, n == 0 || n == 12 || n == len(b), a.err == nil, n)
	}
	a := attrs{payload: []byte{1, 2, 3}}
	require.Zero(t, a.be32())
	require.ErrorIs(t, a.err, errShort)
	a = attrs{payload: []byte{1, 2, 3, 4}}
	require.Zero(t, a.be64())
	require.ErrorIs(t, a.err, errShort)
	require.Equal(t, "abc", cString([]byte("abc\x00def")))
	require.Equal(t, "abc", cString([]byte("abc")))
}
