// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// rawPair are two connected sockets.
func rawPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { _ = c.Close() })
	}
	return conns[0], conns[1]
}

func pair(t *testing.T) (Sender, Receiver) {
	t.Helper()
	a, b := rawPair(t)
	sender, err := NewSender(a)
	require.NoError(t, err)
	receiver, err := NewReceiver(b)
	require.NoError(t, err)
	return sender, receiver
}

// pipes are sockets to hand over: the reading ends of pipes, in which their names are.
func pipes(t *testing.T, n int) []Socket {
	t.Helper()
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 16, Max: 1 << 16})
	sockets := make([]Socket, n)
	for i := range sockets {
		var p [2]int
		require.NoError(t, unix.Pipe2(p[:], unix.O_CLOEXEC))
		sockets[i] = Socket{Name: fmt.Sprint("pipe ", i), FD: p[0]}
		_, err := unix.Write(p[1], []byte(sockets[i].Name))
		require.NoError(t, err)
		require.NoError(t, unix.Close(p[1]))
	}
	t.Cleanup(func() { closeAll(Message{Sockets: sockets}.descriptors()) })
	return sockets
}

// A handover of so many sockets that they are many messages: each arrives under its own
// name, is closed on exec, and stays the sender's.
func TestHandover(t *testing.T) {
	for _, n := range []int{0, 1, MaxSockets, MaxSockets + 1, 2000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			labtest.LeakCheck(t)
			sender, receiver := pair(t)
			sent := pipes(t, n)
			taken := make(chan error, 1)
			go func() { taken <- receive(t, receiver, n) }()
			require.NoError(t, sender.AwaitBegin(t.Context()))
			require.NoError(t, sender.Lend(t.Context(), sent))
			require.NoError(t, sender.Commit(t.Context()))
			require.NoError(t, sender.Release())
			require.NoError(t, <-taken)
			for _, s := range sent {
				_, err := unix.FcntlInt(uintptr(s.FD), unix.F_GETFD, 0)
				require.NoError(t, err, "it is still the sender's")
			}
		})
	}
}

func receive(t *testing.T, receiver Receiver, n int) error {
	t.Helper()
	sockets, err := receiver.Begin(t.Context())
	if err != nil || len(sockets) != n {
		return fmt.Errorf("%d sockets: %w", len(sockets), err)
	}
	defer closeAll(Message{Sockets: sockets}.descriptors())
	for i, s := range sockets {
		b := make([]byte, 100)
		n, err := unix.Read(s.FD, b)
		if err != nil || s.Name != fmt.Sprint("pipe ", i) || string(b[:n]) != s.Name {
			return fmt.Errorf("socket %d is %q: %q: %w", i, s.Name, b[:n], err)
		}
		if flags, err := unix.FcntlInt(uintptr(s.FD), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			return fmt.Errorf("flags %d: %w", flags, err)
		}
	}
	return errors.Join(receiver.Ready(t.Context()), receiver.Committed())
}

// Whoever ends leaves the other one with what it needs to know.
func TestEnds(t *testing.T) {
	ctx := t.Context()
	begin := func(r Receiver) error { _, err := r.Begin(ctx); return err }
	for _, c := range []struct {
		name     string
		receiver func(Receiver) error // and then it ends
		sender   error                // what the sender makes of it
	}{
		{"before it asks", func(Receiver) error { return nil }, io.EOF},
		{"before it is ready", begin, io.EOF},
		{"before it serves", func(r Receiver) error { return errors.Join(begin(r), r.Ready(ctx)) }, io.EOF},
		{"with a reason", func(r Receiver) error { err := begin(r); _ = r.Abort(errors.New("too\nbad")); return err }, &AbortedError{"too; bad"}},
	} {
		t.Run("receiver "+c.name, func(t *testing.T) {
			labtest.LeakCheck(t)
			sender, receiver := pair(t)
			ended := make(chan error, 1)
			go func() { ended <- errors.Join(c.receiver(receiver), receiver.Close()) }()
			err := sender.AwaitBegin(ctx)
			if err == nil {
				err = sender.Lend(ctx, nil)
			}
			if err == nil {
				err = sender.Commit(ctx)
			}
			var aborted *AbortedError
			if errors.As(c.sender, &aborted) {
				require.ErrorAs(t, err, &aborted)
				require.Equal(t, c.sender, aborted)
			} else {
				require.ErrorIs(t, err, c.sender)
			}
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				require.NoError(t, err)
			}
		})
	}

	lend := func(s Sender) error {
		return errors.Join(s.AwaitBegin(ctx), s.Send(Message{Kind: EndOfList, Text: "0"}, 0))
	}
	ready := func(s Sender) error {
		err := lend(s)
		if err == nil {
			_, err = s.Expect(Ready, 0)
		}
		return err
	}
	for _, c := range []struct {
		name   string
		sender func(Sender) error
		has    bool // whether the receiver has the sockets then
	}{
		{"before all is lent", func(s Sender) error { return s.AwaitBegin(ctx) }, false},
		{"when all is lent", lend, true},
		{"when the receiver is ready", ready, true},
		{"when it has committed", func(s Sender) error { return errors.Join(ready(s), s.Send(Message{Kind: Commit}, 0)) }, true},
		{"with Abort", func(s Sender) error { err := lend(s); _ = s.Abort(errors.New("late")); return err }, false},
		{"with a late Abort", func(s Sender) error { err := ready(s); _ = s.Abort(errors.New("late")); return err }, false},
	} {
		t.Run("sender "+c.name, func(t *testing.T) {
			labtest.LeakCheck(t)
			sender, receiver := pair(t)
			ended := make(chan error, 1)
			go func() { ended <- errors.Join(c.sender(sender), sender.Close()) }()
			_, err := receiver.Begin(ctx)
			if err == nil {
				err = receiver.Ready(ctx)
			}
			if c.has {
				require.NoError(t, err)
				require.NoError(t, receiver.Committed())
			} else {
				require.Error(t, err)
			}
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				require.NoError(t, err)
			}
		})
	}
}

// A step that is interrupted ends at once, and so does one that has not begun. The other side
// gets an Abort. After Commit the receiver cannot be interrupted.
func TestInterrupt(t *testing.T) {
	labtest.LeakCheck(t)
	for _, before := range []bool{true, false} {
		ctx, cancel := context.WithCancel(t.Context())
		sender, receiver := pair(t)
		received := make(chan error, 1)
		go func() {
			_, err := receiver.Begin(t.Context())
			if !before && err == nil {
				cancel() // the sender waits for Ready
				_, err = receiver.Receive(0)
			}
			received <- err
		}()
		require.NoError(t, sender.AwaitBegin(ctx))
		if before {
			cancel()
		}
		require.ErrorIs(t, sender.Lend(ctx, nil), os.ErrDeadlineExceeded)
		var aborted *AbortedError
		require.ErrorAs(t, <-received, &aborted)
	}

	ctx, cancel := context.WithCancel(t.Context())
	sender, receiver := pair(t)
	sent := make(chan error, 1)
	go func() {
		sent <- errors.Join(sender.AwaitBegin(ctx), sender.Lend(ctx, nil), sender.Commit(t.Context()), sender.Release())
	}()
	_, err := receiver.Begin(ctx)
	require.NoError(t, err)
	require.NoError(t, receiver.Ready(ctx))
	cancel()
	require.NoError(t, receiver.Committed())
	require.NoError(t, <-sent)
}

func TestOtherVersion(t *testing.T) {
	sender, receiver := pair(t)
	require.NoError(t, receiver.Send(Message{Kind: Begin, Text: "nftnat handover 2"}, 0))
	require.ErrorContains(t, sender.AwaitBegin(t.Context()), `speaks "nftnat handover 2", and this one "nftnat handover 1"`)
	_, err := receiver.Receive(0)
	var refused *AbortedError
	require.ErrorAs(t, err, &refused)
	require.Contains(t, refused.Reason, "nftnat handover 1")
}

// What no peer sends is an error, and its descriptors are closed.
func TestMalformed(t *testing.T) {
	head := func(kind, sockets byte, body string) string {
		return string([]byte{kind, sockets, 0, 0, 0, 0, byte(len(body) >> 8), byte(len(body))}) + body
	}
	for name, c := range map[string]struct {
		bytes string
		fds   int
		want  error
	}{
		"nothing":                   {"", 0, io.EOF},
		"half a header":             {head(3, 0, "")[:5], 0, io.EOF},
		"half a header with one":    {head(2, 1, "")[:5], 1, io.EOF},
		"no body":                   {head(1, 0, "abc")[:8], 0, io.EOF},
		"half a body":               {head(2, 1, "abc")[:10], 1, io.EOF},
		"kind 0":                    {head(0, 0, ""), 0, ErrMalformed},
		"kind 9":                    {head(9, 0, ""), 0, ErrMalformed},
		"reserved":                  {"\x01\x00\x01\x00\x00\x00\x00\x00", 0, ErrMalformed},
		"too long":                  {"\x01\x00\x00\x00\x00\x01\x00\x01", 0, ErrMalformed},
		"lend of none":              {head(2, 0, ""), 0, ErrMalformed},
		"lend without it":           {head(2, 1, "a"), 0, ErrMalformed},
		"lend of too few":           {head(2, 2, "a\nb"), 1, ErrMalformed},
		"lend of too many":          {head(2, 1, "a"), 2, ErrMalformed},
		"lend of more than there":   {head(2, 251, ""), 3, ErrMalformed},
		"names missing":             {head(2, 2, "a"), 2, ErrMalformed},
		"names too many":            {head(2, 1, "a\nb"), 1, ErrMalformed},
		"name empty":                {head(2, 2, "\nb"), 2, ErrMalformed},
		"name too long":             {head(2, 1, strings.Repeat("x", 256)), 1, ErrMalformed},
		"sockets where none belong": {head(3, 1, "1"), 1, ErrMalformed},
		"uncounted sockets":         {head(4, 0, ""), 1, ErrMalformed},
		"several lines":             {head(8, 0, "a\nb"), 0, ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			labtest.LeakCheck(t)
			raw, b := rawPair(t)
			c2, err := NewConn(b)
			require.NoError(t, err)
			var rights []byte
			if c.fds > 0 {
				rights = unix.UnixRights(Message{Sockets: pipes(t, c.fds)}.descriptors()...)
			}
			if c.bytes != "" {
				_, _, err = raw.WriteMsgUnix([]byte(c.bytes), rights, nil)
				require.NoError(t, err)
			}
			require.NoError(t, raw.Close())
			before := openFiles(t)
			_, err = c2.Receive(time.Minute)
			require.ErrorIs(t, err, c.want)
			require.Equal(t, before, openFiles(t))
		})
	}
	for _, m := range []Message{
		{Kind: Lend}, {Kind: Lend, Sockets: []Socket{{}}}, {Kind: Lend, Sockets: []Socket{{Name: "a\nb"}}},
		{Kind: Committed, Text: "a\nb"}, {Kind: Committed, Sockets: []Socket{{Name: "a"}}}, {Kind: Abort, Text: strings.Repeat("x", maxBody+1)},
		{Kind: Lend, Sockets: make([]Socket, MaxSockets+1)}, {Kind: Lend, Sockets: []Socket{{Name: strings.Repeat("x", 256)}}},
	} {
		_, err := m.encode()
		require.Error(t, err, m.Kind)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	es, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(es)
}

// A message that comes a byte at a time is one.
func TestByteByByte(t *testing.T) {
	labtest.LeakCheck(t)
	raw, b := rawPair(t)
	c, err := NewConn(b)
	require.NoError(t, err)
	m := Message{Kind: Lend, Sockets: pipes(t, 3)}
	text, err := m.encode()
	require.NoError(t, err)
	go func() {
		rights := unix.UnixRights(m.descriptors()...)
		for i := range text {
			_, _, _ = raw.WriteMsgUnix(text[i:i+1], rights, nil)
			rights = nil
		}
	}()
	got, err := c.Receive(time.Minute)
	require.NoError(t, err)
	require.Len(t, got.Sockets, 3)
	for i, s := range got.Sockets {
		require.Equal(t, m.Sockets[i].Name, s.Name)
	}
	closeAll(got.descriptors())
}

// Any header and body is refused or a message that is written as it was read.
func FuzzDecode(f *testing.F) {
	for _, m := range []Message{
		{Kind: Begin, Text: Version}, {Kind: EndOfList, Text: "12"}, {Kind: Abort, Text: "why"},
		{Kind: Lend, Sockets: []Socket{{Name: "lock"}, {Name: "tcp :80"}}},
	} {
		b, err := m.encode()
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < headerSize {
			return
		}
		h, err := decodeHeader([headerSize]byte(b))
		if err != nil {
			require.ErrorIs(t, err, ErrMalformed)
			return
		}
		if len(b) != headerSize+h.body {
			return
		}
		m, err := h.decode(b[headerSize:], make([]int, h.sockets))
		if err != nil {
			require.ErrorIs(t, err, ErrMalformed)
			return
		}
		again, err := m.encode()
		require.NoError(t, err)
		require.True(t, bytes.Equal(b, again))
	})
}
