// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// fake answers with one table, and each list is interrupted so often.
type fake struct {
	interrupts int
	failure    error
	generation uint32 // grows with each question if changing is set
	changing   bool
	asked      map[uint16]int
}

func (f *fake) Close() error { return nil }

func (f *fake) Ask(_ context.Context, req Request, each func(family uint8, attrs []byte) error) error {
	f.asked[req.Message]++
	switch req.Message {
	case unix.NFT_MSG_GETGEN:
		if f.changing {
			f.generation++
		}
		return each(0, nlwire.AppendBE32(nil, unix.NFTA_GEN_ID, f.generation))
	case unix.NFT_MSG_GETTABLE:
		if err := each(unix.NFPROTO_IPV4, nlwire.AppendString(nil, unix.NFTA_TABLE_NAME, "t")); err != nil {
			return err
		}
	}
	if f.asked[req.Message] <= f.interrupts {
		return errInterrupted
	}
	return f.failure
}

// A list that was interrupted is asked for again, and has nothing twice; not for ever.
func TestInterrupted(t *testing.T) {
	f := &fake{interrupts: attempts - 1, asked: map[uint16]int{}}
	rs, err := NewReader(f).Read(t.Context())
	require.NoError(t, err)
	require.Len(t, rs.Tables, 1)
	require.Equal(t, attempts, f.asked[unix.NFT_MSG_GETTABLE])

	f = &fake{interrupts: attempts, asked: map[uint16]int{}}
	_, err = NewReader(f).Read(t.Context())
	require.EqualError(t, err, "list tables of nftables: the rules change all the time")
	require.Equal(t, attempts, f.asked[unix.NFT_MSG_GETTABLE])

	f = &fake{changing: true, asked: map[uint16]int{}}
	_, err = NewReader(f).Read(t.Context())
	require.ErrorIs(t, err, errInterrupted)
	require.Equal(t, attempts, f.asked[unix.NFT_MSG_GETTABLE])

	f = &fake{failure: unix.EPERM, asked: map[uint16]int{}}
	_, err = NewReader(f).Read(t.Context())
	require.ErrorIs(t, err, unix.EPERM)
	require.Equal(t, 1, f.asked[unix.NFT_MSG_GETTABLE])

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f = &fake{interrupts: attempts, asked: map[uint16]int{}}
	_, err = NewReader(f).Read(ctx)
	require.ErrorIs(t, err, context.Canceled)
}
