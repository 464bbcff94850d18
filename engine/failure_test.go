// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// saboteur makes one of the calls through the seams fail, or every one from it on.
type saboteur struct {
	at    int // which of the calls, from 0; -1: none
	err   error
	after bool // the call is done, and answered with the error
	on    bool // the ones that follow fail too
	calls []string
	upset bool // a call was failed
}

func (s *saboteur) hits() bool {
	n := len(s.calls) - 1
	return s.at >= 0 && (n == s.at || s.on && n > s.at)
}

func (s *saboteur) before(op string) error {
	s.calls = append(s.calls, op)
	if s.hits() && !s.after {
		s.upset = true
		return s.err
	}
	return nil
}

func (s *saboteur) done(string) error {
	if s.hits() && s.after {
		s.upset = true
		return s.err
	}
	return nil
}

// spoiler decides about the calls through the seams: an error before one is done is its
// answer, and so is one after.
type spoiler interface {
	before(op string) error
	done(op string) error
}

// infiltrate puts a spoiler behind the seams of a testbed, until it is called again.
func (b *testbed) infiltrate(s spoiler) {
	if s == nil {
		b.kernel.Hook(nil)
		b.kernel.After(nil)
		b.flows.hook, b.host.hook, b.store.hook = nil, nil, nil
		if b.localhost != nil {
			b.localhost.before, b.localhost.after = nil, nil
		}
		return
	}
	if b.localhost != nil {
		b.localhost.before, b.localhost.after = s.before, s.done
	}
	b.kernel.Hook(s.before)
	b.kernel.After(s.done)
	b.flows.hook, b.host.hook, b.store.hook = s.before, s.before, s.before
}

// scenario is a call, and the state in which it is made.
type scenario struct {
	prepare func(*testing.T, *testbed, *Engine)
	call    func(*testing.T, *Engine) error
	// damaged: others have damaged the table, and the engine restores what it knows.
	damaged bool
}

func publishAll(t *testing.T, b *testbed, e *Engine) {
	t.Helper()
	publish(t, e, "100->172.30.0.2:80", "101->[fd00:30::2]:80/udp", "0.0.0.0:102->172.30.0.3:80/udp",
		local4+":103->172.30.0.3:80", "[::1]:104->[fd00:30::2]:80")
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, leaseFor(t, b, "105->172.30.0.4:80/udp", time.Hour))
	require.NoError(t, err)
}

func scenarios() map[string]scenario {
	published := publishAll
	flushed := func(t *testing.T, b *testbed, e *Engine) {
		t.Helper()
		published(t, b, e)
		b.kernel.Flush()
	}
	changed := func(t *testing.T, b *testbed, e *Engine) {
		t.Helper()
		published(t, b, e)
		b.write(t, foreign("udp4", "106", "10.9.0.2:80", "theirs"))
		b.edit(t, damages()["no rules"])
	}
	// Each touches segments, UDP, and ports that are chosen, where it can.
	publishes := func(t *testing.T, e *Engine) error {
		t.Helper()
		_, err := e.Publish(t.Context(), nat.PublishOptions{}, mapAll(t, "0->10.9.0.2:80-81/udp", "107->172.30.0.2:80", local4+":108->172.30.0.2:80/udp")...)
		return err
	}
	replaces := func(t *testing.T, e *Engine) error {
		t.Helper()
		_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, mapAll(t, "100->[fd00:30::3]:80", "102->172.30.0.2:80", "101->10.9.0.2:80/udp", "0->172.30.0.2:80/udp")...)
		return err
	}
	unpublishes := func(t *testing.T, e *Engine) error {
		t.Helper()
		_, err := e.Remove(t.Context(), nat.Removal{Mappings: mapAll(t, "101->1.1.1.1:80/udp", "105->1.1.1.1:80/udp", "[::1]:104->[fd00:30::2]:80")})
		return err
	}
	kills := func(t *testing.T, e *Engine) error {
		t.Helper()
		_, err := e.Remove(t.Context(), nat.Removal{Mappings: mapAll(t, "0.0.0.0:102->1.1.1.1:80/udp", local4+":103->1.1.1.1:80", "100->1.1.1.1:80"), Kill: true})
		return err
	}
	applies := func(t *testing.T, e *Engine) error {
		t.Helper()
		_, err := e.Apply(t.Context(), mapAll(t, "100->10.9.0.2:80", "101->172.30.0.2:80/udp", local4+":102->172.30.0.3:80/udp", "110-112->172.30.0.3:80-82")...)
		return err
	}
	meets := func(t *testing.T, e *Engine) error {
		t.Helper()
		_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, mapAll(t, "106->172.30.0.2:80/udp", "100->172.30.0.3:80")...)
		return err
	}
	return map[string]scenario{
		"first publish":      {func(*testing.T, *testbed, *Engine) {}, publishes, false},
		"publish":            {published, publishes, false},
		"publish, flushed":   {flushed, publishes, true},
		"replace":            {published, replaces, false},
		"replace, flushed":   {flushed, replaces, true},
		"replace, changed":   {changed, meets, true},
		"unpublish":          {published, unpublishes, false},
		"unpublish, flushed": {flushed, unpublishes, true},
		"kill":               {published, kills, false},
		"apply":              {published, applies, false},
		"apply to nothing":   {func(*testing.T, *testbed, *Engine) {}, applies, false},
		"apply, flushed":     {flushed, applies, true},
		"purge":              {published, func(_ *testing.T, e *Engine) error { return e.Purge(context.Background()) }, false},
		"purge, flushed":     {flushed, func(_ *testing.T, e *Engine) error { return e.Purge(context.Background()) }, true},
	}
}

// stage makes the state in which the call of a scenario is made. There are flows to
// everything, so that the routing table is asked about them.
func (s scenario) stage(t *testing.T) (*testbed, *Engine) {
	t.Helper()
	b := newTestbed()
	b.store = &memoryStore{}
	e := b.openWith(t, Options{NoSysctl: true, FirstPort: 109, LastPort: 120})
	s.prepare(t, b, e)
	for port := range uint16(25) {
		for _, proto := range []nat.Proto{nat.TCP, nat.UDP} {
			for _, dst := range []string{local4, local6} {
				b.flows.flows = append(b.flows.flows, conntrack.Flow{
					Proto: uint8(proto), Dst: netip.AddrPortFrom(netip.MustParseAddr(dst), 98+port),
					ReplySrc: netip.MustParseAddrPort("172.30.0.3:80"),
				})
			}
		}
	}
	return b, e
}

// snapshot is all that must not change when a call fails, as text.
type snapshot struct{ kernel, mappings, segments, kept, wrong []string }

func (b *testbed) snapshot(e *Engine) snapshot {
	dump := b.kernel.Dump()
	rules := "other rules"
	switch {
	case dump == "":
		rules = "no table"
	case strings.HasPrefix(dump, e.core.table.Rules.String()):
		rules = "rules as they should be"
	}
	s := snapshot{kernel: append([]string{rules}, elementsIn(dump)...), mappings: publishedBy(e)}
	if b.store != nil {
		s.kept = inAllWords(b.store.record.Mappings)
	}
	if e.core.closed {
		return s
	}
	for _, one := range e.core.segments.Table() {
		s.segments = append(s.segments, fmt.Sprint(one))
	}
	s.wrong = misreserved(e, must(e.Mappings(context.Background())))
	return s
}

// withoutChoice leaves out of a snapshot which ports were chosen: those that were
// released last are chosen last.
func (s snapshot) withoutChoice() snapshot {
	number := regexp.MustCompile(`\b(109|11\d)(-1[12]\d)?\b`)
	for _, lines := range []*[]string{&s.kernel, &s.mappings, &s.kept} {
		*lines = slices.Clone(*lines)
		for i, line := range *lines {
			(*lines)[i] = number.ReplaceAllString(line, "N")
		}
		slices.Sort(*lines)
	}
	return s
}

func sabotageErrors() []error {
	errs := []error{nft.ErrStale, nft.ErrInterrupted, errors.New("no errno at all")}
	for _, errno := range []unix.Errno{
		unix.ENOBUFS, unix.EINTR, unix.EPERM, unix.ENOMEM, unix.EBUSY, unix.EEXIST, unix.ENOENT, unix.ENFILE,
	} {
		errs = append(errs, &nft.OpError{Op: "add element", Object: "x", Err: errno})
	}
	return errs
}

// Every call through the seams is made to fail, with every error: the method
// succeeds, or it changes nothing.
func TestFailureAtEachStep(t *testing.T) {
	for name, s := range scenarios() {
		t.Run(name, func(t *testing.T) {
			b, e := s.stage(t)
			witness := &saboteur{at: -1}
			b.infiltrate(witness)
			require.NoError(t, s.call(t, e))
			b.infiltrate(nil)
			after := b.snapshot(e)
			for at := range witness.calls {
				for _, err := range sabotageErrors() {
					s.failsCleanly(t, after, &saboteur{at: at, err: err})
				}
			}
		})
	}
}

func (s scenario) failsCleanly(t *testing.T, after snapshot, spoiler *saboteur) {
	t.Helper()
	b, e := s.stage(t)
	before := b.snapshot(e)
	b.infiltrate(spoiler)
	err := s.call(t, e)
	b.infiltrate(nil)
	what := fmt.Sprintf("call %d of %q failed with %q; the method: %v", spoiler.at, spoiler.calls, spoiler.err, err)
	require.True(t, spoiler.upset, what)
	if err == nil {
		if e.core.closed && errors.Is(spoiler.err, unix.ENOENT) {
			return // a purge that was told that there is no table
		}
		publishedBy(e) // where notes of what has ended were left, they go by looking again
		require.Equal(t, after.withoutChoice(), b.snapshot(e).withoutChoice(), what)
		return
	}
	require.ErrorIs(t, err, spoiler.err, what)
	if e.core.closed {
		require.Contains(t, spoiler.calls, "Delete", "%s; only the flows may be left", what)
		return
	}
	now := b.snapshot(e)
	if s.damaged { // it may have looked, and put the table right
		require.Contains(t, [][]string{before.kernel, restored(t)}, now.kernel, what)
		before.kernel, before.kept = now.kernel, now.kept
	}
	require.Equal(t, before, now, what)
	// Nothing of it is in the way of doing it again.
	require.NoError(t, s.call(t, e), what)
	require.Equal(t, after.withoutChoice(), b.snapshot(e).withoutChoice(), what)
}

// restored is what the kernel holds once the table was repaired.
func restored(t *testing.T) []string {
	t.Helper()
	b, e := scenario{prepare: publishAll}.stage(t)
	return b.snapshot(e).kernel
}

// Everything fails from one call on, undoing too; or a call is done and answered
// with an error. Then it may not be possible to change nothing, but the engine
// loads the table and finds out itself.
func TestFailureBeyondUndoing(t *testing.T) {
	for name, s := range scenarios() {
		t.Run(name, func(t *testing.T) {
			b, e := s.stage(t)
			witness := &saboteur{at: -1}
			b.infiltrate(witness)
			require.NoError(t, s.call(t, e))
			after := b.snapshot(e)
			for at := range witness.calls {
				for _, err := range []error{
					nft.ErrStale, unix.EEXIST, unix.ENOENT, unix.ENOBUFS,
				} {
					s.recovers(t, after, &saboteur{at: at, err: err, on: true})
					// These say that nothing was done; the kernel does not lie.
					if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) || errors.Is(err, nft.ErrStale) {
						continue
					}
					s.recovers(t, after, &saboteur{at: at, err: err, after: true})
					s.recovers(t, after, &saboteur{at: at, err: err, after: true, on: true})
				}
			}
		})
	}
}

func (s scenario) recovers(t *testing.T, after snapshot, spoiler *saboteur) {
	t.Helper()
	b, e := s.stage(t)
	before := b.snapshot(e)
	b.infiltrate(spoiler)
	err := s.call(t, e)
	b.infiltrate(nil)
	what := fmt.Sprintf("from call %d of %q (done: %t, on: %t) %q; the method: %v",
		spoiler.at, spoiler.calls, spoiler.after, spoiler.on, spoiler.err, err)
	if e.core.closed {
		return
	}
	now := b.snapshot(e)
	if err == nil {
		require.Equal(t, after.withoutChoice().mappings, now.withoutChoice().mappings, what)
	}
	require.Empty(t, now.wrong, what)
	if slices.Equal(now.kernel, before.kernel) && !s.damaged {
		require.Equal(t, before, now, what)
	}
	// A change of something else settles what was left.
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "80->172.30.0.2:80"))
	require.NoError(t, err, what)
	if !s.damaged { // which it may not have noticed
		require.Equal(t, publishedBy(b.open(t)), publishedBy(e), what)
		requireConsistent(t, b, e)
	}
	_, err = e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "80->172.30.0.2:80")}})
	require.NoError(t, err, what)
	require.Contains(t, [][]string{before.withoutChoice().mappings, after.withoutChoice().mappings}, b.snapshot(e).withoutChoice().mappings,
		"%s: neither done nor undone", what)
}
