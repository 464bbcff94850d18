// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

var errStop = errors.New("enough")

func dnsFilter() Filter {
	return Filter{Proto: unix.IPPROTO_UDP, Dst: netip.MustParseAddr("192.0.2.1"), FirstPort: 53}
}

// A kernel that knows no filter may ignore it and send all, or refuse it. The
// result is the same, and a refusal is remembered.
func TestFilterUnknown(t *testing.T) {
	for _, tt := range []struct {
		name   string
		refuse []byte
		dumps  int // in two operations
	}{
		{"ignored", nil, 2},
		{"EOPNOTSUPP", ack(0, unix.EOPNOTSUPP), 3},
		{"EINVAL", ack(0, unix.EINVAL), 3},
		{"EINVAL with text", ackWithText(0, unix.EINVAL, "Unsupported attribute"), 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, reader, deleter := fakeConn(t, 30)
			reader.hook = func(m nlwire.Message) bool {
				if m.Type != msgGet || len(m.Payload) == nlwire.NetfilterHeader || tt.refuse == nil {
					return false
				}
				b := slices.Clone(tt.refuse)
				binary.NativeEndian.PutUint32(b[8:], m.Seq)
				reader.queue = append(reader.queue, b)
				return true
			}
			n, err := c.Delete(dnsFilter(), nil)
			require.NoError(t, err)
			require.Equal(t, 30, n)
			require.Len(t, deleter.table, 30)
			for _, f := range deleter.table {
				require.Equal(t, uint16(54), f.Dst.Port())
			}
			require.NoError(t, c.Each(dnsFilter(), func(Flow) error { return nil }))
			require.Equal(t, tt.dumps, reader.count(msgGet))
		})
	}
}

// Where not even a bare dump is understood, there is no ctnetlink.
func TestNoCtnetlink(t *testing.T) {
	c, reader, _ := fakeConn(t, 1)
	reader.hook = func(m nlwire.Message) bool {
		reader.queue = append(reader.queue, ack(m.Seq, unix.EINVAL))
		return true
	}
	_, _, err := c.Count()
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorIs(t, err, unix.EINVAL)
	require.EqualError(t, err, "count flows: kernel without ctnetlink: invalid argument")
	err = c.Each(Filter{}, func(Flow) error { return nil })
	require.ErrorIs(t, err, errors.ErrUnsupported)
}

// Faults in passing are got over: every flow is deleted, nothing else is, and
// the waiting is bounded.
func TestDumpRetries(t *testing.T) {
	type fault func(k *fakeKernel, m nlwire.Message) (answered bool)
	for _, tt := range []struct {
		name  string
		fault fault
	}{
		{"interrupted", func(k *fakeKernel, m nlwire.Message) bool {
			k.dump(m, unix.NLM_F_DUMP_INTR)
			return true
		}},
		{"interrupted at the end", func(k *fakeKernel, m nlwire.Message) bool {
			k.queue = append(k.queue, done(m.Seq, 0, unix.NLM_F_DUMP_INTR))
			return true
		}},
		{"overrun", func(k *fakeKernel, _ nlwire.Message) bool {
			k.queue = append(k.queue, error(unix.ENOBUFS))
			return false
		}},
		{"overrun in mid-dump", func(k *fakeKernel, m nlwire.Message) bool {
			k.dump(m, 0)
			if len(k.queue) == 0 {
				k.running = slices.Insert(k.running, 20, any(error(unix.ENOBUFS)))
			}
			return true
		}},
		{"busy", func(k *fakeKernel, m nlwire.Message) bool {
			for range 20 {
				k.running = append(k.running, datagram(m.Seq-1, msgNew, 0, entryPayload(k.table[0])))
			}
			k.running = append(k.running, done(m.Seq-1, 0, 0))
			return false
		}},
		{"interrupted call", func(k *fakeKernel, m nlwire.Message) bool {
			k.queue = append(k.queue, error(unix.EINTR))
			return false
		}},
		{"failed in the kernel", func(k *fakeKernel, m nlwire.Message) bool {
			k.queue = append(k.queue, done(m.Seq, unix.ENOBUFS, 0))
			return true
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, reader, deleter := fakeConn(t, 300)
				faults := attempts - 1
				reader.hook = func(m nlwire.Message) bool {
					if m.Type != msgGet || faults == 0 {
						return false
					}
					faults--
					return tt.fault(reader, m)
				}
				start := time.Now()
				n, err := c.Delete(dnsFilter(), nil)
				require.NoError(t, err)
				require.Equal(t, 300, n)
				require.Len(t, deleter.table, 300)
				require.Equal(t, attempts, reader.count(msgGet))
				require.Equal(t, 31*time.Millisecond, time.Since(start))

				// One fault more, and it gives up.
				c, reader, _ = fakeConn(t, 300)
				faults = -1
				reader.hook = func(m nlwire.Message) bool { return m.Type == msgGet && tt.fault(reader, m) }
				_, err = c.Delete(dnsFilter(), nil)
				require.Error(t, err)
				require.True(t, transient(err))
				require.Equal(t, attempts, reader.count(msgGet))
				require.Regexp(t, "^delete flows udp 192.0.2.1:53: ", err.Error())
			})
		})
	}
}

// An error for good is not tried again.
func TestDumpFails(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(seq uint32) any
		want   error
		text   string
	}{
		{"refused", func(seq uint32) any { return ack(seq, unix.EPERM) }, fs.ErrPermission,
			"list flows udp 192.0.2.1:53: operation not permitted"},
		{"refused with text", func(seq uint32) any { return ackWithText(seq, unix.EPERM, "no") }, fs.ErrPermission,
			"list flows udp 192.0.2.1:53: operation not permitted (no)"},
		{"failed at its end", func(seq uint32) any { return done(seq, unix.ENOMEM, 0) }, unix.ENOMEM,
			"list flows udp 192.0.2.1:53: cannot allocate memory"},
		{"no header", func(uint32) any { return []byte{1, 2, 3} }, nlwire.ErrMalformed, "list flows udp 192.0.2.1:53: malformed netlink message"},
		{"length beyond the end", func(seq uint32) any { return done(seq, 0, 0)[:18] }, nlwire.ErrMalformed, ""},
		{"errno out of range", func(seq uint32) any { return ack(seq, 5000) }, nlwire.ErrMalformed, ""},
		{"entry cut short", func(seq uint32) any { return datagram(seq, msgNew, 0, []byte{2, 0, 0, 0, 9}) }, nlwire.ErrMalformed, ""},
		{"no answer", func(uint32) any { return error(unix.EBADF) }, unix.EBADF, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, reader, _ := fakeConn(t, 1)
			reader.hook = func(m nlwire.Message) bool {
				if m.Type != msgGet {
					return false
				}
				reader.queue = append(reader.queue, tt.answer(m.Seq), done(m.Seq, 0, 0))
				return true
			}
			err := c.Each(dnsFilter(), func(Flow) error { return nil })
			require.ErrorIs(t, err, tt.want)
			require.Equal(t, 1, reader.count(msgGet))
			var op *OpError
			require.ErrorAs(t, err, &op)
			if tt.text != "" {
				require.EqualError(t, err, tt.text)
			}

			// The connection is as good as before.
			reader.hook = nil
			n, err := c.Delete(dnsFilter(), nil)
			require.NoError(t, err)
			require.Equal(t, 1, n)
		})
	}
}

// Answers to what was asked before are not taken for new ones.
func TestStaleAnswers(t *testing.T) {
	c, reader, deleter := fakeConn(t, 3)
	reader.queue = []any{
		ack(0xffff_fff0, unix.EPERM), done(0xffff_fff1, unix.EPERM, 0),
		datagram(0xffff_fff2, msgGetStats, 0, statsPayload(0, 0)),
		datagram(0xffff_fff3, msgNew, 0, entryPayload(plain(unix.IPPROTO_UDP, "10.9.9.9:1", "192.0.2.1:53"))),
	}
	deleter.queue = []any{ack(0xffff_fff0, unix.EPERM), ack(0xffff_fff1, 0)}
	stale := slices.Clone(reader.queue)
	n, err := c.Delete(dnsFilter(), nil)
	require.NoError(t, err)
	require.Equal(t, 3, n)
	require.Len(t, deleter.table, 3)

	reader.queue = stale
	entries := 0
	require.NoError(t, c.reader.dump(dumpRequest(Filter{}), func([]byte) error {
		entries++
		return nil
	}))
	require.Equal(t, 6, entries)
}

// Early ends, of all kinds, leave the connection usable.
func TestStopEarly(t *testing.T) {
	c, reader, deleter := fakeConn(t, 300)
	seen := 0
	err := c.Each(dnsFilter(), func(Flow) error {
		seen++
		return errStop
	})
	require.Equal(t, errStop, err) // as it was returned
	require.Equal(t, 1, seen)
	require.NotEmpty(t, reader.running)

	// An error of the caller's that looks like the kernel's is still his.
	for _, errno := range []error{unix.EINVAL, unix.EOPNOTSUPP, unix.ENOBUFS, unix.EBUSY} {
		seen = 0
		require.Equal(t, errno, c.Each(dnsFilter(), func(Flow) error {
			seen++
			return errno
		}))
		require.Equal(t, 1, seen)
	}

	require.Panics(t, func() {
		_, _ = c.Delete(dnsFilter(), func(f Flow) bool { panic(f) })
	})
	require.NotEmpty(t, reader.running)
	entries, limit, err := c.Count()
	require.NoError(t, err)
	require.Equal(t, 600, entries)
	require.Equal(t, 1000, limit)

	n, err := c.Delete(dnsFilter(), nil)
	require.NoError(t, err)
	require.Equal(t, 300, n)
	require.Len(t, deleter.table, 300)
}

// What is never answered is waited for once.
func TestNeverAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, reader, _ := fakeConn(t, 3)
		reader.hook = func(m nlwire.Message) bool { return m.Type == msgGet }
		start := time.Now()
		err := c.Each(dnsFilter(), func(Flow) error { return nil })
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		reader.hook = nil
		entries := 0
		require.NoError(t, c.Each(dnsFilter(), func(Flow) error {
			entries++
			return nil
		}))
		require.Equal(t, 3, entries)
		require.Equal(t, answerTime, time.Since(start))
	})
}

// An empty namespace is not walked: the hash table is not its own.
func TestEmptyTable(t *testing.T) {
	c, reader, _ := fakeConn(t, 0)
	n, err := c.Delete(dnsFilter(), nil)
	require.NoError(t, err)
	require.Zero(t, n)
	require.Zero(t, reader.count(msgGet))
}

// Bad filters are refused before anything is asked of the kernel.
func TestBadFilter(t *testing.T) {
	c, reader, _ := fakeConn(t, 3)
	for _, tt := range []struct {
		filter Filter
		delete string // text of the error of Delete
		each   string // and of Each; empty: none
	}{
		{Filter{}, "delete flows * *:*: no protocol: invalid argument", ""},
		{Filter{FirstPort: 53}, "delete flows * *:53: no protocol: invalid argument", ""},
		{Filter{Proto: 6, LastPort: 9},
			"delete flows tcp *:0-9: last port without a first: invalid argument",
			"list flows tcp *:0-9: last port without a first: invalid argument"},
		{Filter{Proto: 6, FirstPort: 9, LastPort: 8},
			"delete flows tcp *:9-8: last port below the first: invalid argument",
			"list flows tcp *:9-8: last port below the first: invalid argument"},
		{Filter{Proto: 17, Dst: netip.MustParseAddr("fe80::1%eth0"), FirstPort: 53},
			"delete flows udp [fe80::1%eth0]:53: address with a zone: invalid argument",
			"list flows udp [fe80::1%eth0]:53: address with a zone: invalid argument"},
	} {
		reader.requests = nil
		_, err := c.Delete(tt.filter, nil)
		require.EqualError(t, err, tt.delete)
		require.ErrorIs(t, err, fs.ErrInvalid)
		require.Empty(t, reader.requests)
		err = c.Each(tt.filter, func(Flow) error { return nil })
		if tt.each == "" {
			require.NoError(t, err)
			continue
		}
		require.EqualError(t, err, tt.each)
		require.ErrorIs(t, err, fs.ErrInvalid)
		require.Empty(t, reader.requests)
	}
}

func TestCloseFake(t *testing.T) {
	c, reader, deleter := fakeConn(t, 3)
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	require.True(t, reader.closed)
	require.True(t, deleter.closed)
	_, _, err := c.Count()
	require.ErrorIs(t, err, fs.ErrClosed)
	require.EqualError(t, err, "count flows: file already closed")
	_, err = c.Delete(dnsFilter(), nil)
	require.ErrorIs(t, err, fs.ErrClosed)
	require.ErrorIs(t, c.Each(Filter{}, func(Flow) error { return nil }), fs.ErrClosed)
}
