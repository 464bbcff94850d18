// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// play runs a script on a connection through a proxy. Each byte is one step of
// one end (its lowest bit): a write of one of many sizes, a FIN, a reset, a
// pause. For any script a prefix of what was sent arrives, all of it and an EOF
// after a FIN without a reset, and in the end the proxy has no connection.
func play(t *testing.T, g *Group, script []byte) {
	t.Helper()
	pair := newTCPPair(t, &Options{Group: g})
	ends := [2]*net.TCPConn{pair.client, pair.backend}
	type stream struct {
		got []byte
		err error
	}
	var received [2]chan stream
	pause := make(chan struct{})
	for i, c := range ends {
		received[i] = make(chan stream, 1)
		go func() {
			if len(script)%3 == 0 {
				<-pause // the readers come when all is written, or stuck
			}
			got, err := io.ReadAll(c)
			received[i] <- stream{got, err}
		}()
	}
	var sent [2]bytes.Buffer
	var finished [2]bool
	reset := false
	content := rand.NewChaCha8([32]byte{})
	budget := 1 << 20 // less than the socket buffers on the way: no write blocks for ever
	for _, step := range script {
		i := int(step & 1)
		switch kind := step >> 1 & 0x1f; {
		case reset || finished[i]:
		case kind < 28:
			size := min(1<<(kind%20)+int(step>>6), budget)
			budget -= size
			b := make([]byte, size)
			_, _ = content.Read(b)
			n, err := ends[i].Write(b)
			sent[i].Write(b[:n])
			require.NoError(t, err)
		case kind == 28:
			time.Sleep(time.Duration(step>>6) * time.Millisecond)
		case kind == 29 || kind == 30:
			require.NoError(t, ends[i].CloseWrite())
			finished[i] = true
		case !finished[1-i]: // after the other's FIN it may be too late for a reset to be seen
			reset = true
			require.NoError(t, ends[i].SetLinger(0))
			require.NoError(t, ends[i].Close())
		}
	}
	close(pause)
	for i, c := range ends {
		if !reset && !finished[i] {
			require.NoError(t, c.CloseWrite())
		}
	}
	for i := range ends {
		s := <-received[i]
		want := sent[1-i].Bytes()
		if !reset {
			require.NoError(t, s.err)
			require.Len(t, s.got, len(want))
		}
		require.True(t, bytes.HasPrefix(want, s.got), "other bytes came out than went in")
		if reset {
			require.Error(t, s.err)
		}
	}
	eventually(t, "connection forgotten", func() bool { return pair.proxy.Stats().Live == 0 })
	_ = ends[0].Close()
	_ = ends[1].Close()
}

func FuzzStream(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0x3a, 0x02, 0x3b})
	f.Add([]byte{0x20, 0x21, 0x3e})
	f.Add([]byte{0x26, 0x24, 0x22, 0x27, 0x25, 0x3c, 0x23, 0x3d})
	f.Fuzz(func(t *testing.T, script []byte) {
		play(t, nil, script[:min(len(script), 100)])
	})
}

func TestRandomScripts(t *testing.T) {
	noLeak(t)
	r := rand.New(rand.NewPCG(3, 5))
	for _, opts := range []*GroupOptions{nil, {MaxPipes: 1}, {MaxPipes: -1}} {
		g := NewGroup(opts)
		for range 150 {
			script := make([]byte, r.IntN(40))
			for i := range script {
				script[i] = byte(r.Uint32())
			}
			t.Logf("%x", script)
			play(t, g, script)
		}
		require.NoError(t, g.Close())
	}
}
