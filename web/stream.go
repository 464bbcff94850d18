// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"slices"
	"time"
)

// line is a line of the events with the version that it makes.
type line struct {
	version uint64
	text    []byte
}

// stream is a client that follows.
type stream struct {
	lines chan []byte
	lost  chan struct{} // closed when it was too slow
}

// broadcast sends a line to all streams. The caller holds mu.
func (h *hub) broadcast(text []byte) {
	for s := range h.streams {
		select {
		case s.lines <- text:
		default:
			delete(h.streams, s)
			close(s.lost)
		}
	}
}

// keep broadcasts a line that makes a version, and keeps it. The caller holds mu.
func (h *hub) keep(text []byte) {
	h.broadcast(text)
	h.kept = append(h.kept, line{h.version, text})
	size, first := 0, len(h.kept)
	for first > 0 && len(h.kept)-first < keptLines && size+len(h.kept[first-1].text) <= keptBytes {
		first--
		size += len(h.kept[first].text)
	}
	h.kept = slices.Delete(h.kept, 0, first)
}

// subscribe adds a stream that has a version, and returns the lines that it lacks. It is not ok if they
// are not known any more, and nil if there are too many streams.
func (h *hub) subscribe(since string) (s *stream, lacks [][]byte, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.streams) >= maxStreams || h.closed {
		return nil, nil, false
	}
	ok = since == "" || since == h.id(h.version)
	for i := 0; i < len(h.kept) && !ok; i++ {
		if since == h.id(h.kept[i].version-1) {
			ok = true
			for _, l := range h.kept[i:] {
				lacks = append(lacks, l.text)
			}
		}
	}
	s = &stream{lines: make(chan []byte, queue), lost: make(chan struct{})}
	h.streams[s] = struct{}{}
	h.asked = time.Now()
	poke(h.wake)
	return s, lacks, ok
}

func (h *hub) unsubscribe(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.streams, s)
}
