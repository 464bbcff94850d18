// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// numbered is an event about so many mappings that can be told from others.
func numbered(n, mappings int) nat.Event {
	ms := make([]nat.Mapping, mappings)
	for i := range ms {
		ms[i] = nat.Mapping{
			Proto: nat.TCP, Frontend: netip.AddrPortFrom(netip.Addr{}, 80), More: uint16(i % 3),
			Backend: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), 80), Name: strconv.Itoa(n),
		}
	}
	return nat.Event{Kind: nat.EventPublished, Mappings: ms}
}

// Readers that come, read and go at random get what a list would give them.
func TestModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	type pair struct {
		*reader
		want int // the index in sent of its next event
	}
	f := &Feed{}
	var sent []nat.Event
	var readers []*pair
	for range 2000 {
		switch rnd.IntN(8) {
		case 0:
			if len(readers) < 5 {
				readers = append(readers, &pair{f.subscribe(), len(sent)})
			}
		case 1:
			if len(readers) > 0 {
				i := rnd.IntN(len(readers))
				readers[i].close()
				readers = append(readers[:i], readers[i+1:]...)
			}
		case 2, 3: // sometimes more than is kept
			e := numbered(len(sent), rnd.IntN(1<<rnd.IntN(18)))
			f.Send(e)
			sent = append(sent, e)
		default:
			for _, r := range readers {
				for range rnd.IntN(4) {
					e, ok, wake := r.read()
					if r.want == len(sent) {
						require.False(t, ok)
						require.NotNil(t, wake)
						break
					}
					require.True(t, ok)
					if e.Kind == nat.EventLost {
						lost := 0
						for ; len(sent)-r.want > len(f.events); r.want++ {
							lost += sent[r.want].Ports()
						}
						require.EqualValues(t, lost, e.Lost)
						continue
					}
					require.Equal(t, sent[r.want], e)
					r.want++
				}
			}
		}
		behind := false
		for _, r := range readers {
			behind = behind || r.want != len(sent)
		}
		if !behind {
			require.Empty(t, f.events, "nothing is kept that all readers have")
			require.Zero(t, f.kept)
		}
		require.True(t, f.kept <= most || len(f.events) == 1)
		require.Equal(t, len(readers) != 0, f.Followed())
	}
}

// Many senders and readers at once: every reader gets everything, each sender's events in
// their order.
func TestConcurrency(t *testing.T) {
	const senders, each, readers = 4, 2000, 4
	f := &Feed{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var reading, sending sync.WaitGroup
	got := make([][]int, readers)
	for i := range readers {
		events := f.Events(ctx, nil)
		reading.Go(func() {
			for e := range events {
				v, _ := strconv.Atoi(e.Mappings[0].Name)
				if got[i] = append(got[i], v); len(got[i]) == senders*each {
					return
				}
			}
		})
	}
	for s := range senders {
		sending.Go(func() {
			for i := range each {
				f.Send(numbered(s*each+i, 1))
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
	require.False(t, f.Followed(), "an iteration that is over follows no more")
}

func TestEventsEnd(t *testing.T) {
	f := &Feed{}
	ctx, cancel := context.WithCancel(t.Context())
	f.Events(ctx, nil) // never iterated over
	require.True(t, f.Followed())
	cancel()
	require.Eventually(t, func() bool { return !f.Followed() }, time.Minute, time.Millisecond)

	ended := make(chan struct{})
	events := f.Events(t.Context(), ended)
	f.Send(numbered(1, 1))
	close(ended)
	n := 0
	for range events {
		n++
	}
	require.Equal(t, 1, n, "what was sent before the end comes")
	require.False(t, f.Followed())
}

func BenchmarkSend(b *testing.B) {
	f := &Feed{}
	r := f.subscribe()
	defer r.close()
	e := numbered(1, 1)
	b.ReportAllocs()
	for b.Loop() {
		f.Send(e)
	}
}

// A reader can be closed by its context just before it reads, while others are served.
func TestReadAfterClose(t *testing.T) {
	f := &Feed{}
	r := f.subscribe()
	f.Send(numbered(0, 1))
	r.close() // nobody needs the event any more, and it goes
	_, ok, wake := r.read()
	require.False(t, ok)
	require.Nil(t, wake)

	other := f.subscribe()
	defer other.close()
	f.Send(numbered(1, 1))
	_, ok, _ = r.read()
	require.False(t, ok, "an event that was sent later")
}

// What is iterated over a second time is over.
func TestIterateTwice(t *testing.T) {
	f := &Feed{}
	events := f.Events(t.Context(), nil)
	f.Send(numbered(0, 1))
	for range events {
		break
	}
	for e := range events {
		t.Fatal(e)
	}
}
