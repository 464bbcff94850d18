// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Options say which devices are served.
type Options struct {
	// Devices are those of the LAN, at least one. They need not be there yet.
	Devices []string
	// WAN is a device that is followed too, and never served. Empty: none.
	WAN string
	// Rate is what a source may send. Zero: 64 datagrams a second, and 256 at once.
	Rate Rate
	// Log gets devices that come and go, and sockets that cannot be opened. Nil: nothing is logged.
	Log *slog.Logger
}

// LAN is the devices on which a gateway serves. All methods may be called at the same time.
type LAN struct {
	served   []string
	wan      string
	log      *slog.Logger
	watcher  *watcher
	limiter  *limiter
	drops    drops
	received atomic.Uint64
	now      atomic.Pointer[map[string]*Device] // by name

	mu      sync.Mutex
	changed chan struct{}
	users   []user // that have sockets for each device
}

// user has sockets for each device.
type user interface {
	// adjust opens and closes sockets, so that there are those of the devices.
	adjust(devices map[string]*Device) error
}

// Open reads the devices and begins to follow them. Run has to be called, or Close.
func Open(o Options) (*LAN, error) {
	if len(o.Devices) == 0 {
		return nil, errors.New("open LAN: no device is given")
	}
	w, err := newWatcher() // before the devices are read, so that no change is missed
	if err != nil {
		return nil, fmt.Errorf("open LAN: %w", err)
	}
	l := &LAN{served: slices.Clone(o.Devices), wan: o.WAN, log: o.Log, watcher: w, limiter: newLimiter(o.Rate), changed: make(chan struct{})}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	devices, err := read(l.names())
	if err != nil {
		w.close()
		return nil, fmt.Errorf("open LAN: %w", err)
	}
	l.now.Store(&devices)
	for _, name := range l.names() {
		if devices[name] == nil {
			l.log.Warn("the device is not there: waiting for it", "device", name)
		}
	}
	return l, nil
}

func (l *LAN) names() []string {
	names := slices.Clone(l.served)
	if l.wan != "" {
		names = append(names, l.wan)
	}
	return names
}

// Close ends what Open has begun, if Run was not called.
func (l *LAN) Close() { l.watcher.close() }

// The pauses after which sockets that could not be opened are tried again.
const (
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

// Run follows devices and addresses until ctx is done. It returns nil then.
func (l *LAN) Run(ctx context.Context) error {
	defer l.watcher.close()
	retry := firstRetry
	return l.watcher.run(ctx, func() time.Duration {
		err := l.update()
		if err == nil {
			retry = firstRetry
			return 0
		}
		if retry == firstRetry {
			l.log.Warn("serve the LAN", "error", err)
		}
		again := retry
		retry = min(2*retry, lastRetry)
		return again
	})
}

// update reads the devices, and adjusts the sockets.
func (l *LAN) update() error {
	devices, err := read(l.names())
	if err != nil {
		return err
	}
	before := *l.now.Load()
	differ := false
	for _, name := range l.names() {
		was, is := before[name], devices[name]
		switch {
		case was == nil && is == nil:
			continue
		case was == nil:
			l.log.Info("the device is there", "device", name)
		case is == nil:
			l.log.Warn("the device is gone", "device", name)
		case is.equal(was):
			continue
		}
		differ = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if differ {
		l.now.Store(&devices)
		close(l.changed)
		l.changed = make(chan struct{})
	}
	var errs []error
	for _, u := range l.users {
		errs = append(errs, u.adjust(l.lanDevices()))
	}
	return errors.Join(errs...)
}

// add opens the sockets of a user, and has it follow the devices.
func (l *LAN) add(u user) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := u.adjust(l.lanDevices())
	if err == nil {
		l.users = append(l.users, u)
	}
	return err
}

func (l *LAN) remove(u user) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users = slices.DeleteFunc(l.users, func(o user) bool { return o == u })
}

// lanDevices are those that are served.
func (l *LAN) lanDevices() map[string]*Device {
	devices := map[string]*Device{}
	for _, name := range l.served {
		if d := (*l.now.Load())[name]; d != nil {
			devices[name] = d
		}
	}
	return devices
}

// Changed returns a channel that is closed by the next change of a device or its addresses.
func (l *LAN) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Names are the devices that are to be served, whether they are there or not.
func (l *LAN) Names() []string { return slices.Clone(l.served) }

// Devices returns the devices of the LAN that are there, in the order in which they were given.
func (l *LAN) Devices() []Device {
	var out []Device
	for _, name := range l.served {
		if d, ok := l.Device(name); ok {
			out = append(out, d)
		}
	}
	return out
}

// Device returns a device. False: it is not there.
func (l *LAN) Device(name string) (Device, bool) {
	d := (*l.now.Load())[name]
	if d == nil {
		return Device{}, false
	}
	return *d, true
}

// WAN returns the device of the WAN. False: it is not there.
func (l *LAN) WAN() (Device, bool) { return l.Device(l.wan) }

// Drops returns how many datagrams and connections were dropped, by the reason.
func (l *LAN) Drops() map[string]uint64 { return l.drops.all() }

// Received returns how many datagrams and connections have come, without those that were dropped.
func (l *LAN) Received() uint64 { return l.received.Load() }

// check returns why something from a device is not for this host, or dropNone.
func (l *LAN) check(device string, index int, from, to netip.Addr, joined []netip.Addr) drop {
	d := (*l.now.Load())[device]
	switch {
	case d == nil, d.Index != index:
		return dropDevice
	case d.Has(from): // its own announcements
		return dropOwn
	case !d.OnLink(from):
		return dropOffLink
	case !d.Has(to) && !slices.Contains(joined, to.WithZone("")):
		return dropDestination
	case !l.limiter.allow(from, time.Now()):
		return dropRate
	}
	l.received.Add(1)
	return dropNone
}
