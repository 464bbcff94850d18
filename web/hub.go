// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strconv"
	"sync"
	"time"
)

const (
	// changePause is how long changes are collected before they are read.
	changePause = 50 * time.Millisecond
	// busy is how many times as long as a reading took the reader rests after it.
	busy = 4
	// countEvery is how often connections are counted for clients, and sampleEvery if there is none.
	countEvery  = 2 * time.Second
	sampleEvery = slotTime
	// readTimeout bounds a reading. After lateTime the page says that there is no answer, and how the gateway is
	// is not waited for any longer. freshTimeout is how long a page waits.
	readTimeout  = 30 * time.Second
	lateTime     = 1500 * time.Millisecond
	freshTimeout = lateTime + 500*time.Millisecond
	// eventTime is how long an event of the daemon may take to come.
	eventTime = 20 * time.Millisecond
	// lookEvery is how often the doctor looks while there are clients, lookPause how long after a change at
	// the earliest, and lookLate when it does not wait any more for changes to end. It rests lookRest
	// times as long as it has looked.
	lookEvery = time.Minute
	lookPause = 500 * time.Millisecond
	lookLate  = 10 * time.Second
	lookRest  = 20
	// pageTime is for how long a page counts as a client.
	pageTime = time.Minute
	// firstRetry and lastRetry are pauses before the daemon is asked again for its events.
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
	// maxStreams is how many clients can follow, and queueLines and queueBytes how late each may be: the lines of a
	// change of 5,000 mappings are 1 to 2 MB. One line may be longer.
	maxStreams = 32
	queueLines = 1 << 14
	queueBytes = 4 << 20
	// keptLines and keptBytes are how much is kept for clients whose page is a little older.
	keptLines = 128
	keptBytes = 1 << 20
)

// hub reads the daemon for all clients, and tells them what has changed.
type hub struct {
	Options
	nonce string // of this process, in versions
	wake  chan struct{}
	again chan struct{}

	mu      sync.Mutex
	current *view
	// wanted counts what a reading is wanted for, and shown is the count that the last reading began
	// with. passed is closed when the next reading ends, and began is when the last one did begin.
	wanted, shown uint64
	passed        chan struct{}
	began         time.Time
	// changed is when something changed that the daemon has told of, and dirty says that mappings
	// have to be read.
	changed time.Time
	dirty   bool
	asked   time.Time // when a page was asked for last
	// looked is when the doctor began to look last, looking is closed when it has ended, and rested is
	// when it may look again.
	looked  time.Time
	rested  time.Time
	looking chan struct{}
	found   facts // diagnosis and its time alone
	streams map[*stream]struct{}
	kept    []line
	version uint64
	closed  bool
	ended   chan struct{} // closed when there will be no more lines
}

func newHub(o Options, nonce string) *hub {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.now == nil {
		o.now = time.Now
	}
	h := &hub{
		Options: o, nonce: nonce, wake: make(chan struct{}, 1), again: make(chan struct{}, 1),
		passed: make(chan struct{}), looking: make(chan struct{}), ended: make(chan struct{}), dirty: true, wanted: 1, streams: map[*stream]struct{}{},
	}
	h.asked = time.Now()
	h.current = newView(facts{}, 0)
	return h
}

// run reads and follows until ctx is done.
func (h *hub) run(ctx context.Context) {
	var running sync.WaitGroup
	running.Go(func() { h.follow(ctx) })
	running.Go(func() { h.diagnose(ctx) })
	h.read(ctx)
	running.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	close(h.ended)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// sleep waits, and reports whether ctx is still not done.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// encode encodes a document as a line.
func encode(doc any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(doc) // all documents of this package can be encoded
	return b.Bytes()
}

// show makes facts the current view, and tells the streams what has changed.
func (h *hub) show(f facts) {
	h.mu.Lock()
	old, version := h.current, h.version
	h.mu.Unlock()
	v := newView(f, version)
	docs := changes(old, v, h.Token != "")
	if len(docs) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, doc := range docs {
		h.version++
		doc.Version = h.id(h.version)
		h.keep(encode(doc))
	}
	v.version = h.version
	h.current = v
}

// id is a version as clients have it.
func (h *hub) id(version uint64) string { return h.nonce + "-" + strconv.FormatUint(version, 10) }

// done says that a reading has ended that began with a count.
func (h *hub) done(wanted uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shown = wanted
	close(h.passed)
	h.passed = make(chan struct{})
}

// fresh returns a view that has all that the daemon had acknowledged before the call, and recent
// figures, unless that takes too long.
func (h *hub) fresh(ctx context.Context) *view {
	// The event may still be on its way.
	sleep(ctx, eventTime)
	ctx, cancel := context.WithTimeout(ctx, freshTimeout)
	defer cancel()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = time.Now()
	await := func(c <-chan struct{}) {
		h.mu.Unlock()
		defer h.mu.Lock()
		wait(ctx, c)
	}
	if h.stale() && time.Since(h.looked) > lookLate && time.Now().After(h.rested) {
		poke(h.again)
		await(h.looking)
	}
	if time.Since(h.began) > countEvery {
		h.wanted++
	}
	for target := h.wanted; h.shown < target && ctx.Err() == nil; {
		poke(h.wake)
		await(h.passed)
	}
	return h.current
}

func wait(ctx context.Context, ended <-chan struct{}) {
	select {
	case <-ended:
	case <-ctx.Done():
	}
}

// render makes the markup of all rows, and the document, once and when they are needed.
func (v *view) render(removable bool) {
	v.once.Do(func() {
		w := writer{make([]byte, 0, 400*len(v.rows))}
		for i := range v.rows {
			w.row(&v.rows[i], removable)
		}
		v.html = w.b
		v.json = v.document()
	})
}
