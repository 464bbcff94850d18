// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/explain"
	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// fakeDoctor is what findings run with.
type fakeDoctor struct {
	*findings
	mu        sync.Mutex
	diagnosis report.Diagnosis
	err       error
	takes     time.Duration
	runs      []time.Duration // when they began
	sent      []string
	events    chan nat.Event
}

func newFakeDoctor() *fakeDoctor {
	begin := time.Now()
	d := &fakeDoctor{events: make(chan nat.Event)}
	d.findings = &findings{
		interval: DefaultDoctorInterval, log: slog.New(slog.DiscardHandler),
		send: func(message string) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.sent = append(d.sent, message)
		},
		examine: func(ctx context.Context, _ *explain.Probes) (report.Diagnosis, error) {
			d.mu.Lock()
			d.runs = append(d.runs, time.Since(begin))
			takes, diagnosis, err := d.takes, d.diagnosis, d.err
			d.mu.Unlock()
			sleep(ctx, takes)
			return diagnosis, err
		},
		changes: func(ctx context.Context) func(func(nat.Event) bool) {
			return func(yield func(nat.Event) bool) {
				for {
					select {
					case <-ctx.Done():
						return
					case ev := <-d.events:
						if !yield(ev) {
							return
						}
					}
				}
			}
		},
	}
	return d
}

// finds sets what is found from now on.
func (d *fakeDoctor) finds(diagnosis report.Diagnosis, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.diagnosis, d.err = diagnosis, err
}

// messages are those that have been sent.
func (d *fakeDoctor) messages() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.sent)
}

// begun is when the runs began.
func (d *fakeDoctor) begun() []time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.runs)
}

// during runs the doctor for a time.
func during(t *testing.T, f func(d *fakeDoctor)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := newFakeDoctor()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.run(ctx) }()
		f(d)
		cancel()
		require.NoError(t, <-done)
	})
}

func dropped(thing string) report.Finding {
	return report.Finding{Severity: report.Stops, Kind: report.KindPolicy, Thing: thing}
}

// What comes and goes is sent once.
func TestFindingsAreSent(t *testing.T) {
	during(t, func(d *fakeDoctor) {
		d.finds(report.Diagnosis{Findings: []report.Finding{dropped("a"), dropped("b")}}, nil)
		time.Sleep(5 * time.Minute)
		require.Equal(t, []string{"found: this host: stopped: a", "found: this host: stopped: b"}, d.messages())
		require.Len(t, d.now(t.Context()), 2)

		d.finds(report.Diagnosis{}, errors.New("busy"))
		time.Sleep(5 * time.Minute)
		require.Len(t, d.messages(), 2, "nothing is known then")

		d.finds(report.Diagnosis{Findings: []report.Finding{dropped("b")}, Skipped: 1}, nil)
		time.Sleep(5 * time.Minute)
		require.Len(t, d.now(t.Context()), 2, "a was not looked at")

		d.finds(report.Diagnosis{Findings: []report.Finding{dropped("b")}}, nil)
		time.Sleep(5 * time.Minute)
		require.Equal(t, "gone: this host: stopped: a", d.messages()[2])
		require.Len(t, d.messages(), 3)
	})
}

// What is wrong with mappings that are not published any more, or otherwise, is left out at once; what others name stays.
func TestFindingsOfPublished(t *testing.T) {
	mappings := func(texts ...string) (ms []nat.Mapping) {
		for _, text := range texts {
			ms = append(ms, nattest.Mapping(t, text))
		}
		return ms
	}
	about := func(thing string, ms []nat.Mapping, count int) report.Finding {
		f := dropped(thing)
		f.Mappings, f.Count = slices.Clone(ms), count
		return f
	}
	published := mappings("80->172.30.0.2:80", "81->172.30.0.2:80", "8000-8009->172.30.0.2:8000-8009")
	d := newFakeDoctor()
	d.published = func(_ context.Context, ms ...nat.Mapping) ([]nat.Mapping, error) {
		return slices.DeleteFunc(slices.Clone(ms), func(m nat.Mapping) bool { return !slices.Contains(published, m) }), nil
	}
	d.update(report.Diagnosis{Findings: []report.Finding{
		about("one", published[:1], 1), about("many", published, 12), dropped("the host"),
	}})
	said := func() (lines []string) {
		for _, f := range d.now(t.Context()) {
			lines = append(lines, f.String())
		}
		return lines
	}
	const host = "this host: stopped: the host"
	require.Equal(t, []string{"tcp 80: stopped: one", "tcp 80 (and 11 more): stopped: many", host}, said())
	published[0] = mappings("80->172.30.0.3:80")[0]
	require.Equal(t, []string{"tcp 81 (and 10 more): stopped: many", host}, said())
	published = published[2:]
	require.Equal(t, []string{"tcp 8000-8009 (and 9 more): stopped: many", host}, said())
	published = nil
	require.Equal(t, []string{host}, said())
	d.published = func(context.Context, ...nat.Mapping) ([]nat.Mapping, error) { return nil, nat.ErrClosed }
	require.Len(t, said(), 3, "it is not known")
}

// The daemon looks each minute, sooner after a change, and never takes more than 2 % of the time.
func TestDoctorIsBounded(t *testing.T) {
	during(t, func(d *fakeDoctor) {
		time.Sleep(time.Minute + time.Second)
		require.Equal(t, []time.Duration{time.Minute}, d.begun())
		time.Sleep(15 * time.Second)
		d.events <- nat.Event{Kind: nat.EventPublished}
		time.Sleep(2 * time.Second)
		require.Len(t, d.begun(), 2)
		for range 1000 { // 100 seconds
			d.events <- nat.Event{Kind: nat.EventPublished}
			time.Sleep(100 * time.Millisecond)
		}
		require.LessOrEqual(t, len(d.begun()), 12)
		d.events <- nat.Event{Kind: nat.EventHost, Message: foundPrefix + "its own"}
		before := len(d.begun())
		time.Sleep(40 * time.Second)
		require.LessOrEqual(t, len(d.begun()), before+1)

		d.mu.Lock()
		d.takes = 4 * time.Second
		d.mu.Unlock()
		time.Sleep(time.Minute)
		before = len(d.begun())
		for range 4000 {
			d.events <- nat.Event{Kind: nat.EventPublished}
			time.Sleep(time.Second)
		}
		require.InDelta(t, 4000/(4+50*4), len(d.begun())-before, 2)
	})
}
