// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

const (
	// changePause is how long changes are collected before they are read.
	changePause = 50 * time.Millisecond
	// busy is how many times as long as a reading took the reader rests after it.
	busy = 4
	// countEvery is how often connections are counted for clients, and sampleEvery if there is none.
	countEvery  = 2 * time.Second
	sampleEvery = slotTime
	// readTimeout bounds a reading, and freshTimeout how long a page waits for one.
	readTimeout  = 30 * time.Second
	freshTimeout = time.Second
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
	// maxStreams is how many clients can follow, and queue how many lines each may be late.
	maxStreams = 32
	queue      = 64
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

// follow passes the daemon's events on, and has read what they are about.
func (h *hub) follow(ctx context.Context) {
	said := ""
	for pause := firstRetry; ctx.Err() == nil; pause = min(2*pause, lastRetry) {
		began := time.Now()
		events, err := h.Daemon.RangeEvents(ctx)
		h.note()
		if err == nil {
			for e, eventErr := range events {
				if err = eventErr; err != nil {
					break
				}
				h.send(e)
				h.note()
			}
			h.note()
		}
		if text := errorText(err); text != said && ctx.Err() == nil {
			if said = text; err != nil {
				h.Log.Warn("events of the daemon are not followed", "error", err)
			}
		}
		if time.Since(began) > lastRetry {
			pause = firstRetry
		}
		sleep(ctx, pause)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// note has the mappings read soon.
func (h *hub) note() {
	h.mu.Lock()
	h.changed, h.dirty = time.Now(), true
	h.wanted++
	h.mu.Unlock()
	poke(h.wake)
	poke(h.again)
}

// send passes a daemon's event on as it is, except that clients have lost nothing if this process has.
func (h *hub) send(e api.Event) {
	if e.Type == api.EventLost {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.broadcast(encode(e))
}

// encode encodes a document as a line.
func encode(doc any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(doc) // all documents of this package can be encoded
	return b.Bytes()
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

// read reads again and again.
func (h *hub) read(ctx context.Context) {
	r := reader{hub: h}
	for {
		began := time.Now()
		r.pass(ctx)
		if !sleep(ctx, max(changePause, busy*time.Since(began))) || !h.due(ctx, began) {
			return
		}
	}
}

// due waits until it is time to read: for clients when something has changed. It reports whether ctx is
// still not done.
func (h *hub) due(ctx context.Context, began time.Time) bool {
	timer := time.NewTimer(max(0, h.interval()-time.Since(began)))
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case <-h.wake:
			if h.watched() {
				return true
			}
		case <-timer.C:
			return true
		case <-ctx.Done():
		}
	}
	return false
}

// interval is how often connections are counted.
func (h *hub) interval() time.Duration {
	if h.watched() {
		return countEvery
	}
	return sampleEvery
}

// watched reports whether there are clients.
func (h *hub) watched() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.streams) != 0 || time.Since(h.asked) < pageTime
}

// reader has what a reading needs of those before it.
type reader struct {
	hub *hub
	facts
	counts  counts
	conns   []nat.Connections
	counted time.Time
	said    string
}

// pass reads what may have changed, and shows it.
func (r *reader) pass(ctx context.Context) {
	h := r.hub
	h.mu.Lock()
	wanted := h.wanted
	h.began = time.Now()
	dirty := h.dirty
	h.dirty = false
	found := h.found
	h.mu.Unlock()
	defer h.done(wanted)
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	err := r.ask(ctx, dirty)
	if err != nil && ctx.Err() == nil || errors.Is(err, context.DeadlineExceeded) {
		h.mu.Lock()
		h.dirty = true
		h.mu.Unlock()
	}
	if text := errorText(err); text != r.said && !errors.Is(err, context.Canceled) {
		if r.said = text; err != nil {
			h.Log.Warn("the daemon does not answer", "error", err)
		}
	}
	r.failed = errorText(err)
	r.askGateway(ctx)
	r.diagnosis, r.diagnosed = found.diagnosis, found.diagnosed
	h.show(r.facts)
}

// ask reads the daemon.
func (r *reader) ask(ctx context.Context, dirty bool) error {
	status, err := r.hub.Daemon.Status(ctx)
	if err != nil {
		return err
	}
	ms := r.mappings
	if dirty {
		if ms, err = r.hub.Daemon.Mappings(ctx); err != nil {
			return err
		}
	}
	count := time.Since(r.counted) >= countEvery-changePause || r.counted.IsZero()
	if count {
		began := time.Now()
		conns, err := r.hub.Daemon.Connections(ctx)
		if err != nil {
			return err
		}
		r.conns, r.counted = conns, began
	}
	// Nothing fails from here on: numbers and mappings belong together.
	if dirty {
		r.mappings, r.ids = ms, make([]string, len(ms))
		for i, m := range ms {
			r.ids[i] = rowID(m)
		}
	}
	if dirty || count {
		r.flows, r.hits, r.total = r.counts.add(r.ids, r.mappings, r.conns)
	}
	if count {
		r.history.add(r.hub.now(), r.total)
	}
	// Whole seconds of uptime would change the page each second.
	status.Uptime = 0
	r.status, r.read = status, r.hub.now()
	return nil
}

// askGateway reads the gateway. Without its socket there is none.
func (r *reader) askGateway(ctx context.Context) {
	r.gateway, r.absent = nil, ""
	if r.hub.Gateway == nil {
		return
	}
	g, err := r.hub.Gateway.Gateway(ctx)
	switch {
	case errors.Is(err, api.ErrNoServer) && errors.Is(err, fs.ErrNotExist):
	case err != nil:
		r.absent = err.Error()
	default:
		r.gateway = &g
	}
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

// stale reports whether the doctor has to look again. The caller holds mu.
func (h *hub) stale() bool {
	return h.looked.IsZero() || h.changed.After(h.looked) || time.Since(h.looked) > lookEvery
}

// diagnose has the doctor look while there are clients: after changes, and each minute.
func (h *hub) diagnose(ctx context.Context) {
	said := ""
	timer := time.NewTicker(time.Second)
	defer timer.Stop()
	for {
		h.mu.Lock()
		due := h.stale() && time.Now().After(h.rested) && (time.Since(h.changed) >= lookPause || time.Since(h.looked) > lookLate)
		h.mu.Unlock()
		if due && h.watched() {
			err := h.examine(ctx)
			if text := errorText(err); text != said && ctx.Err() == nil {
				if said = text; err != nil {
					h.Log.Warn("the doctor gives no answer", "error", err)
				}
			}
		}
		select {
		case <-timer.C:
		case <-h.again:
			if !sleep(ctx, lookPause) {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// examine asks the doctor.
func (h *hub) examine(ctx context.Context) error {
	at, began := h.now(), time.Now()
	h.mu.Lock()
	h.looked = began
	h.rested = began.Add(readTimeout) // nobody waits for one that is under way
	h.mu.Unlock()
	d, err := h.Daemon.Doctor(ctx)
	h.mu.Lock()
	h.rested = time.Now().Add(max(2*time.Second, lookRest*time.Since(began)))
	if err == nil {
		h.found.diagnosis, h.found.diagnosed = d, at
	}
	h.wanted++
	close(h.looking)
	h.looking = make(chan struct{})
	h.mu.Unlock()
	poke(h.wake)
	return err
}

// change is a line of the events that the page itself needs.
type change struct {
	Type    string `json:"type"` // "rows" or "part"
	Version string `json:"version"`
	// Del are rows that go, and Put rows that come or change: the id, the markup, and the id of the
	// row before it; empty: it is the first.
	Del []string    `json:"del,omitempty"`
	Put [][3]string `json:"put,omitempty"`
	// Cells are the numbers of rows: the id, connections now, and hits.
	Cells [][3]any `json:"cells,omitempty"`
	// ID is that of a part, and HTML its new markup.
	ID   string  `json:"id,omitempty"`
	HTML *string `json:"html,omitempty"`
}

// changes are what leads from one view to another.
func changes(old, v *view, removable bool) (docs []change) {
	rows := change{Type: "rows"}
	before := make(map[string]*row, len(old.rows))
	for i := range old.rows {
		before[old.rows[i].id] = &old.rows[i]
	}
	previous := ""
	for i := range v.rows {
		r := &v.rows[i]
		was, known := before[r.id]
		delete(before, r.id)
		same := known && was.m == r.m && was.state == r.state
		switch {
		case !same:
			var w writer
			w.row(r, removable)
			rows.Put = append(rows.Put, [3]string{r.id, string(w.b), previous})
		case was.flows != r.flows || was.hits != r.hits:
			rows.Cells = append(rows.Cells, [3]any{r.id, r.flows, r.hits})
		}
		previous = r.id
	}
	for i := range old.rows {
		if _, gone := before[old.rows[i].id]; gone {
			rows.Del = append(rows.Del, old.rows[i].id)
		}
	}
	if len(rows.Del)+len(rows.Put)+len(rows.Cells) != 0 {
		docs = append(docs, rows)
	}
	for i, p := range v.parts {
		if old.parts[i] != p {
			docs = append(docs, change{Type: "part", ID: p.id, HTML: &p.html})
		}
	}
	return docs
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
