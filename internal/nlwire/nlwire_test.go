// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nlwire

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
	return CloseMessage(append(b, behind...), 0)
}

// explanation is the kernel's own words and where they point to.
func explanation(text string, offset uint32) []byte {
	b := AppendString(nil, unix.NLMSGERR_ATTR_MSG, text)
	return AppendAttr(b, unix.NLMSGERR_ATTR_OFFS, binary.NativeEndian.AppendUint32(nil, offset)...)
}

const explainedFlags = unix.NLM_F_CAPPED | unix.NLM_F_ACK_TLVS

func only(t *testing.T, b []byte) Message {
	t.Helper()
	m := Messages{Data: b}
	require.True(t, m.Next())
	require.Empty(t, m.Data)
	return m.Message
}

func TestDecodeAnswer(t *testing.T) {
	request := func(n int) []byte { return make([]byte, n) }
	whole := errorMessage(1, unix.EINVAL, unix.NLM_F_ACK_TLVS, append(request(24), explanation("no", 40)...)...)
	binary.NativeEndian.PutUint32(whole[20:], unix.SizeofNlMsghdr+24) // the request is quoted whole
	for _, tt := range []struct {
		name string
		b    []byte
		want Answer
	}{
		{"acknowledgement", errorMessage(1, 0, unix.NLM_F_CAPPED), Answer{}},
		{"error", errorMessage(1, unix.EEXIST, unix.NLM_F_CAPPED), Answer{Errno: unix.EEXIST}},
		{"explained", errorMessage(1, unix.EEXIST, explainedFlags, explanation("twice", 84)...), Answer{unix.EEXIST, "twice", 84}},
		{"request quoted", whole, Answer{unix.EINVAL, "no", 40}},
		{"flag but nothing behind", errorMessage(1, unix.EPERM, explainedFlags), Answer{Errno: unix.EPERM}},
		{"short offset", errorMessage(1, unix.EPERM, explainedFlags, AppendAttr(nil, unix.NLMSGERR_ATTR_OFFS, []byte{1, 2}...)...), Answer{Errno: unix.EPERM}},
		{"unknown attribute", errorMessage(1, unix.EPERM, explainedFlags, append(AppendBE32(nil, 77, 1), explanation("x", 1)...)...), Answer{unix.EPERM, "x", 1}},
		{"no NUL", errorMessage(1, unix.EPERM, explainedFlags, AppendAttr(nil, unix.NLMSGERR_ATTR_MSG, []byte("abc")...)...), Answer{Errno: unix.EPERM, Text: "abc"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := only(t, tt.b).Answer()
			require.NoError(t, err)
			require.Equal(t, tt.want, a)
		})
	}
	for _, code := range []uint32{1, 0x7fffffff, 0x80000000} {
		b := errorMessage(1, 0, 0)
		binary.NativeEndian.PutUint32(b[16:], code)
		_, err := only(t, b).Answer()
		require.ErrorContains(t, err, "error code")
	}
	_, err := Message{Payload: []byte{1, 2, 3}}.Answer()
	require.ErrorIs(t, err, ErrMalformed)
	// The request's length is the kernel's word, not to be trusted.
	for _, n := range []uint32{0, 3, 0x7fffffff, 0xffffffff} {
		binary.NativeEndian.PutUint32(whole[20:], n)
		a, err := only(t, whole).Answer()
		require.NoError(t, err)
		require.Equal(t, unix.EINVAL, a.Errno)
	}
}

func TestAnswerError(t *testing.T) {
	require.NoError(t, Answer{}.Err())
	err := Answer{Errno: unix.ENOENT, Text: "no table"}.Err()
	require.EqualError(t, err, "no such file or directory (no table)")
	require.ErrorIs(t, err, unix.ENOENT)
	require.Equal(t, unix.ENOENT, Answer{Errno: unix.ENOENT}.Err())
}

func TestMessagesCutShort(t *testing.T) {
	b := append(errorMessage(1, unix.EPERM, 0), errorMessage(2, 0, 0)...)
	for n := range len(b) {
		m := Messages{Data: b[:n]}
		count := 0
		for m.Next() {
			count++
		}
		whole := n == 0 || n == len(b)/2
		require.Equal(t, whole, m.Err == nil, n)
		require.Equal(t, n/(len(b)/2), count)
	}
	m := Messages{Data: errorMessage(1, 0, 0)}
	binary.NativeEndian.PutUint32(m.Data, 15) // shorter than its header
	require.False(t, m.Next())
	require.ErrorIs(t, m.Err, ErrMalformed)
	require.False(t, m.Next(), "it stays where it is")
	require.ErrorIs(t, Message{Payload: []byte{1}}.Attrs(4).Err, ErrMalformed)
}

func TestAttrsCutShort(t *testing.T) {
	b := AppendString(AppendBE64(nil, 1, 7), 2, "abc")
	for n := range len(b) + 1 {
		a := Attrs{Data: b[:n]}
		for a.Next() {
			require.LessOrEqual(t, len(a.Payload), 8)
		}
		require.Equal(t, n == 0 || n == 12 || n == len(b), a.Err == nil, n)
	}
	a := Attrs{Payload: []byte{1, 2, 3}}
	require.Zero(t, a.BE32())
	require.ErrorIs(t, a.Err, ErrMalformed)
	a = Attrs{Payload: []byte{1, 2, 3, 4}}
	require.Zero(t, a.BE64())
	require.ErrorIs(t, a.Err, ErrMalformed)
	require.Equal(t, "abc", unix.ByteSliceToString([]byte("abc\x00def")))
	require.Equal(t, "abc", unix.ByteSliceToString([]byte("abc")))
}

func TestIgnoringEINTR(t *testing.T) {
	for _, tt := range []struct {
		interrupts int
		last, want error
	}{
		{0, nil, nil},
		{3, nil, nil},
		{3, unix.EPERM, unix.EPERM},
		{maxInterrupts, nil, unix.EINTR},
	} {
		calls := 0
		err := ignoringEINTR(func() error {
			calls++
			if calls <= tt.interrupts {
				return unix.EINTR
			}
			return tt.last
		})
		require.Equal(t, tt.want, err)
		require.LessOrEqual(t, calls, maxInterrupts)
	}
}
