// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// numbered is an event that can be told from others.
func numbered(n int) nat.Mapping {
	return nat.Mapping{
		Proto: nat.TCP, Frontend: netip.AddrPortFrom(netip.Addr{}, 80),
		Backend: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), 80), Name: strconv.Itoa(n),
	}
}

// counted is the same for very many, and count reads it.
func counted(n int) nat.Mapping {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], uint32(n))
	return nat.Mapping{
		Proto: nat.TCP, Frontend: netip.AddrPortFrom(netip.Addr{}, 80),
		Backend: netip.AddrPortFrom(netip.AddrFrom4(a), 80),
	}
}

func count(h happening) int {
	a := h.mapping.Backend.Addr().As4()
	return int(binary.BigEndian.Uint32(a[:]))
}

// Readers who come, read and go at random get what a simple list would give them.
func TestFeedModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	type pair struct {
		*reader
		next int // the number of the event that has to come next
	}
	f := &Feed{}
	sent := 0
	var readers []*pair
	for range 500 {
		switch rnd.IntN(8) {
		case 0:
			if len(readers) < 5 {
				readers = append(readers, &pair{f.subscribe(), sent})
			}
		case 1:
			if len(readers) > 0 {
				i := rnd.IntN(len(readers))
				readers[i].close()
				readers = append(readers[:i], readers[i+1:]...)
			}
		case 2, 3:
			// Sometimes more than fit.
			ms := make([]nat.Mapping, 1+rnd.IntN(1<<rnd.IntN(18)))
			for i := range ms {
				ms[i] = counted(sent + i)
			}
			f.Send(EventPublished, time.Now(), ms...)
			sent += len(ms)
		default:
			for _, r := range readers {
				buf := make([]happening, 1+rnd.IntN(40000))
				n, lost, wake := r.take(buf)
				if r.next == sent {
					require.Zero(t, n)
					require.Zero(t, lost)
					require.NotNil(t, wake)
					continue
				}
				require.Nil(t, wake)
				want := max(r.next, sent-feedLength)
				require.EqualValues(t, want-r.next, lost)
				require.Equal(t, min(len(buf), sent-want), n)
				require.Equal(t, want, count(buf[0]))
				require.Equal(t, want+n-1, count(buf[n-1]))
				r.next = want + n
			}
		}
		if len(readers) == 0 {
			require.Nil(t, f.record, "nothing is kept while nobody reads")
		}
	}
}

// Many senders and readers at once: every reader gets everything, each sender's events
// in their order.
func TestFeedConcurrency(t *testing.T) {
	const senders, each, readers = 4, 2000, 4
	f := &Feed{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var reading, sending sync.WaitGroup
	got := make([][]int, readers)
	for i := range readers {
		r := f.subscribe()
		reading.Go(func() {
			defer r.close()
			buf := make([]happening, 7)
			for len(got[i]) < senders*each {
				n, _, err := r.read(ctx, buf)
				if err != nil {
					return
				}
				for _, h := range buf[:n] {
					v, _ := strconv.Atoi(h.mapping.Name)
					got[i] = append(got[i], v)
				}
			}
		})
	}
	for s := range senders {
		sending.Go(func() {
			for i := range each {
				f.Send(EventPublished, time.Now(), numbered(s*each+i))
			}
		})
	}
	sending.Wait()
	reading.Wait()
	for _, events := range got {
		require.Len(t, events, senders*each)
		next := map[int]int{}
		for _, v := range events {
			require.Equal(t, next[v/each], v%each)
			next[v/each]++
		}
	}
}

func TestFeedSend(t *testing.T) {
	f := &Feed{}
	at := time.Date(2026, 5, 4, 3, 2, 1, 987654321, time.FixedZone("", 3600))
	f.Send(EventPublished, at, parse(t, "1->10.0.0.1:1")) // nobody reads
	r := f.subscribe()
	f.Send(EventPublished, at, parse(t, "1-2->10.0.0.1:1-2/udp"), parse(t, "3->10.0.0.1:3"))
	f.Send(EventRepaired, at)
	buf := make([]happening, 9)
	n, lost, err := r.read(t.Context(), buf)
	require.NoError(t, err)
	require.Zero(t, lost)
	var events []Event
	for _, h := range buf[:n] {
		events = append(events, h.event())
	}
	require.Equal(t, []Event{
		{Type: EventPublished, Time: at.UTC(), Mapping: &Mapping{Proto: "udp", Port: 1, Backend: "10.0.0.1:1", Proxy: true}},
		{Type: EventPublished, Time: at.UTC(), Mapping: &Mapping{Proto: "udp", Port: 2, Backend: "10.0.0.1:2", Proxy: true}},
		{Type: EventPublished, Time: at.UTC(), Mapping: &Mapping{Proto: "tcp", Port: 3, Backend: "10.0.0.1:3", Proxy: true}},
		{Type: EventRepaired, Time: at.UTC()},
	}, events)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err = r.read(ctx, buf)
	require.ErrorIs(t, err, context.Canceled)
	r.close()
}

func BenchmarkFeedSend(b *testing.B) {
	f := &Feed{}
	r := f.subscribe()
	defer r.close()
	m, at := numbered(1), time.Now()
	b.ReportAllocs()
	for b.Loop() {
		f.Send(EventPublished, at, m)
	}
}
