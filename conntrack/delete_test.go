// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"errors"
	"io/fs"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Deletions whose answers are lost are done again, one at a time.
func TestDeleteAnswersLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, deleter := fakeConn(t, 300)
		lost := 0
		deleter.hook = func(m nlwire.Message) bool {
			if lost < 3 && m.Flags&unix.NLM_F_ACK != 0 {
				lost++
				deleter.answer(m)
				deleter.queue = []any{error(unix.ENOBUFS)}
				return true
			}
			return false
		}
		_, err := c.Delete(dnsFilter(), nil)
		require.NoError(t, err)
		require.Len(t, deleter.table, 300)
		for _, f := range deleter.table {
			require.Equal(t, uint16(54), f.Dst.Port())
		}

		// Never answered: it gives up.
		c, _, deleter = fakeConn(t, 3)
		deleter.hook = func(nlwire.Message) bool {
			deleter.queue = []any{error(unix.ENOBUFS)}
			return true
		}
		n, err := c.Delete(dnsFilter(), nil)
		require.ErrorIs(t, err, unix.ENOBUFS)
		require.Zero(t, n)
		require.Equal(t, 3+attempts, deleter.count(msgDelete))
	})
}

// What others deleted first is no error, and not counted; what cannot be
// deleted is an error, and the rest is deleted still.
func TestDeleteErrors(t *testing.T) {
	t.Run("gone", func(t *testing.T) {
		c, _, deleter := fakeConn(t, 200)
		deleter.table = slices.DeleteFunc(deleter.table, func(f Flow) bool { return f.Dst.Port() == 53 && f.ID%2 == 0 })
		n, err := c.Delete(dnsFilter(), nil)
		require.NoError(t, err)
		require.Equal(t, 100, n)
		require.Len(t, deleter.table, 200)
	})
	t.Run("one refused", func(t *testing.T) {
		c, _, deleter := fakeConn(t, 5)
		deleter.hook = func(m nlwire.Message) bool {
			if deleter.count(msgDelete) != 2 {
				return false
			}
			deleter.queue = append(deleter.queue, ackWithText(m.Seq, unix.EROFS, "not this one"))
			return true
		}
		n, err := c.Delete(dnsFilter(), nil)
		require.ErrorIs(t, err, unix.EROFS)
		require.EqualError(t, err, "delete flows udp 192.0.2.1:53: read-only file system (not this one)")
		require.Equal(t, 4, n)
		require.Len(t, deleter.table, 6)
	})
	t.Run("all refused at once", func(t *testing.T) {
		c, _, deleter := fakeConn(t, 5)
		deleter.hook = func(m nlwire.Message) bool {
			if deleter.count(msgDelete) == 1 { // the kernel stops reading there
				deleter.queue = append(deleter.queue, ack(m.Seq, unix.EPERM))
			}
			return true
		}
		n, err := c.Delete(dnsFilter(), nil)
		require.ErrorIs(t, err, fs.ErrPermission)
		require.EqualError(t, err, "delete flows udp 192.0.2.1:53: operation not permitted")
		require.Zero(t, n)
	})
	t.Run("an error that looks like a missing filter", func(t *testing.T) {
		c, reader, deleter := fakeConn(t, chunk)
		deleter.hook = func(m nlwire.Message) bool {
			deleter.queue = append(deleter.queue, ack(m.Seq, unix.EINVAL))
			return true
		}
		_, err := c.Delete(dnsFilter(), nil)
		require.ErrorIs(t, err, unix.EINVAL)
		require.NotErrorIs(t, err, errors.ErrUnsupported)
		require.Equal(t, 1, reader.count(msgGet))
		require.False(t, c.noFilter)
	})
	t.Run("dump fails in the middle", func(t *testing.T) {
		c, reader, deleter := fakeConn(t, 5)
		reader.hook = func(m nlwire.Message) bool {
			if m.Type != msgGet {
				return false
			}
			reader.queue = append(reader.queue, datagram(m.Seq, msgNew, 0, entryPayload(reader.table[0])), done(m.Seq, unix.ENOMEM, 0))
			return true
		}
		n, err := c.Delete(dnsFilter(), nil)
		require.ErrorIs(t, err, unix.ENOMEM)
		require.Equal(t, 1, n)
		require.Len(t, deleter.table, 9)
	})
}

// A delete request never lacks the tuple, without which the kernel would flush
// the table, nor the id.
func TestDeleteRequests(t *testing.T) {
	c, _, deleter := fakeConn(t, 300)
	n, err := c.Delete(Filter{Proto: unix.IPPROTO_UDP, Dst: netip.IPv4Unspecified(), FirstPort: 1, LastPort: 65535}, nil)
	require.NoError(t, err)
	require.Equal(t, 600, n)
	require.Equal(t, 600, deleter.count(msgDelete))
	acks := 0
	for _, m := range deleter.requests {
		require.Greater(t, len(m.Payload), nlwire.NetfilterHeader)
		typ, data, rest, err := nextAttr(m.Payload[nlwire.NetfilterHeader:])
		require.NoError(t, err)
		require.Equal(t, uint16(ctaTupleOrig), typ)
		_, err = decodeTuple(m.Payload[0], data)
		require.NoError(t, err)
		typ, _, _, err = nextAttr(rest)
		require.NoError(t, err)
		require.Equal(t, uint16(ctaID), typ)
		if m.Flags&unix.NLM_F_ACK != 0 {
			acks++
		}
	}
	require.Equal(t, 5, acks) // one for each chunk of 128
}

func TestMatch(t *testing.T) {
	c, _, deleter := fakeConn(t, 40)
	n, err := c.Delete(dnsFilter(), func(f Flow) bool {
		require.Equal(t, uint16(53), f.Dst.Port())
		return f.ID%4 == 0
	})
	require.NoError(t, err)
	require.Equal(t, 10, n)
	require.Len(t, deleter.table, 70)
	n, err = c.Delete(dnsFilter(), func(Flow) bool { return false })
	require.NoError(t, err)
	require.Zero(t, n)
	require.Len(t, deleter.table, 70)
}
