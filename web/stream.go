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
	// page says that it is the page, which needs none of the daemon's own events.
	page bool
	some chan struct{} // has room for one: there are lines, or there will be no more

	// Guarded by mu of the hub:
	lines [][]byte // that it has yet to be sent; all streams share the texts
	size  int      // of lines
	lost  bool     // it was too slow, and gets no more
}

// broadcast sends a line to all streams, or one of the daemon's events to those that are no page. The caller holds mu.
func (h *hub) broadcast(text []byte, event bool) {
	for s := range h.streams {
		switch {
		case event && s.page:
			continue
		case s.size != 0 && s.size+len(text) > queueBytes || len(s.lines) == queueLines:
			delete(h.streams, s)
			s.lines, s.lost = nil, true
		default:
			s.lines = append(s.lines, text)
			s.size += len(text)
		}
		poke(s.some)
	}
}

// drain returns the lines that a stream has to be sent, and whether lines were lost.
func (h *hub) drain(s *stream) (lines [][]byte, lost bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	lines = s.lines
	s.lines, s.size = nil, 0
	return lines, s.lost
}

// keep broadcasts a line that makes a version, and keeps it. The caller holds mu.
func (h *hub) keep(text []byte) {
	h.broadcast(text, false)
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
func (h *hub) subscribe(since string, page bool) (s *stream, lacks [][]byte, ok bool) {
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
	s = &stream{page: page, some: make(chan struct{}, 1)}
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
