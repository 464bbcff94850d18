// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package pcp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nftnat/nftnat/gateway/internal/lease"
	"github.com/nftnat/nftnat/nat"
)

// fakeLeases are leases without a daemon. Of free ports it gives the one that is asked for, or that of the client, or the
// next one.
type fakeLeases struct {
	mu      sync.Mutex
	all     []lease.Lease
	taken   map[string]bool // by others: "udp 5000"
	fail    error           // of the next change
	wan     netip.Addr
	began   time.Time
	now     time.Time
	ready   chan struct{}
	changed chan struct{}
	refused int
	clean   bool // check that what is asked for is in range
}

func newFake() *fakeLeases {
	f := &fakeLeases{
		taken: map[string]bool{}, wan: netip.MustParseAddr("198.51.100.1"),
		now: time.Unix(1_800_000_000, 0), ready: make(chan struct{}), changed: make(chan struct{}),
	}
	f.began = f.now.Add(-100 * time.Second)
	close(f.ready)
	return f
}

// server returns a server of the leases, with their clock.
func (f *fakeLeases) server() *Server {
	s := newServer(f)
	s.now = f.time
	return s
}

func (f *fakeLeases) time() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fakeLeases) sleep(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
	f.all = slices.DeleteFunc(f.all, func(l lease.Lease) bool { return !l.Expires.IsZero() && !l.Expires.After(f.now) })
}

func (f *fakeLeases) setWAN(a netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wan = a
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeLeases) find(client netip.Addr, proto nat.Proto, internal uint16) int {
	return slices.IndexFunc(f.all, func(l lease.Lease) bool {
		return l.Client == client && l.Proto == proto && l.Internal == internal
	})
}

func (f *fakeLeases) free(proto nat.Proto, port uint16) bool {
	return port != 0 && !reserved(proto, port) && !f.taken[fmt.Sprint(proto, port)] &&
		!slices.ContainsFunc(f.all, func(l lease.Lease) bool { return l.Proto == proto && l.External == port })
}

func (f *fakeLeases) Grant(_ context.Context, want lease.Request) (lease.Lease, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.check(want)
	if err := f.fail; err != nil {
		f.fail = nil
		return lease.Lease{}, err
	}
	i := f.find(want.Client, want.Proto, want.Internal)
	if i >= 0 {
		have := f.all[i]
		switch {
		case want.Exact && want.External != have.External:
			return lease.Lease{}, &lease.TakenError{Proto: want.Proto, Port: want.External, Holder: "you"}
		case have.Kind == 0 || have.Kind == lease.PCP && want.Kind == lease.PMP:
			return have, nil
		case have.Kind == lease.PCP && have.Key != want.Key:
			return lease.Lease{}, lease.ErrKey
		}
	} else {
		port := want.External
		for _, p := range []uint16{want.External, want.Internal} {
			if port = p; f.free(want.Proto, p) {
				break
			}
			if want.Exact {
				return lease.Lease{}, &lease.TakenError{Proto: want.Proto, Port: p, Holder: "another"}
			}
		}
		for !f.free(want.Proto, port) {
			port++
		}
		i = len(f.all)
		f.all = append(f.all, lease.Lease{Client: want.Client, Proto: want.Proto, Internal: want.Internal, External: port})
	}
	l := &f.all[i]
	l.Kind, l.Key = want.Kind, want.Key
	lifetime := min(want.Lifetime, 24*time.Hour)
	if want.Kind == lease.PCP {
		lifetime = max(lifetime, 2*time.Minute)
	}
	l.Expires = f.now.Add(lifetime)
	switch {
	case !want.AddFrom:
		l.From = want.From
	case len(l.From)+len(want.From) > nat.MaxSources:
		return lease.Lease{}, lease.ErrSources
	default:
		l.From = slices.Concat(l.From, want.From)
	}
	if want.SetText {
		l.Text = nat.HarmlessName(want.Text[:min(len(want.Text), 34)])
	}
	return *l, nil
}

// check is what a server must never ask for.
func (f *fakeLeases) check(want lease.Request) {
	if !f.clean {
		return
	}
	if want.Proto != nat.TCP && want.Proto != nat.UDP || want.Internal == 0 || !want.Client.Is4() || want.Lifetime < time.Second ||
		reserved(want.Proto, want.External) || want.Exact && want.External == 0 || want.Kind == lease.PCP && len(want.Key) != 2*nonceLen {
		panic(fmt.Sprintf("%+v was asked for", want))
	}
	for _, p := range want.From {
		if !p.IsValid() || !p.Addr().Is4() || p != p.Masked() {
			panic(fmt.Sprintf("from %v", p))
		}
	}
}

func (f *fakeLeases) Release(_ context.Context, kind lease.Kind, key string, client netip.Addr, proto nat.Proto, internal uint16) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail; err != nil {
		f.fail = nil
		return err
	}
	i := f.find(client, proto, internal)
	switch {
	case i < 0:
		return nil
	case f.all[i].Kind == 0:
		return lease.ErrOther
	case f.all[i].Kind == lease.PCP && (kind != lease.PCP || f.all[i].Key != key):
		return lease.ErrKey
	}
	f.all = slices.Delete(f.all, i, i+1)
	return nil
}

func (f *fakeLeases) ReleaseAll(_ context.Context, kind lease.Kind, client netip.Addr, proto nat.Proto) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var err error
	f.all = slices.DeleteFunc(f.all, func(l lease.Lease) bool {
		if l.Client != client || l.Proto != proto {
			return false
		}
		if l.Kind != kind {
			err = lease.ErrOther
		}
		return l.Kind == kind
	})
	return err
}

func (f *fakeLeases) Find(client netip.Addr, proto nat.Proto, internal uint16) (lease.Lease, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := f.find(client, proto, internal); i >= 0 {
		return f.all[i], true
	}
	return lease.Lease{}, false
}

func (f *fakeLeases) All() []lease.Lease {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.all)
}

func (f *fakeLeases) Address() (netip.Addr, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wan, f.wan.IsValid()
}

func (f *fakeLeases) Epoch() uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return uint32(f.now.Sub(f.began) / time.Second)
}

func (f *fakeLeases) Ready() <-chan struct{} { return f.ready }

func (f *fakeLeases) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *fakeLeases) Refuse(lease.Kind, netip.Addr, string, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refused++
}

// String is all leases, one a line, or "nothing".
func (f *fakeLeases) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []string
	for _, l := range f.all {
		m := fmt.Sprintf("%v %d->%v", l.Proto, l.External, netip.AddrPortFrom(l.Client, l.Internal))
		if l.Kind == 0 {
			m = "operator " + m
		} else {
			m += fmt.Sprintf(" %ds", l.Expires.Sub(f.now)/time.Second)
		}
		for i, p := range l.From {
			if i == 0 {
				m += " from"
			}
			m += " " + p.String()
		}
		if l.Text != "" {
			m += " text " + l.Text
		}
		lines = append(lines, m)
	}
	if lines == nil {
		return "nothing"
	}
	return strings.Join(lines, "\n")
}
