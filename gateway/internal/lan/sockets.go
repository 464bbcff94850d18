// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// socketKey is a device and a family.
type socketKey struct {
	device string
	v6     bool
}

// wildcard is where a socket of TCP or UDP listens: the network and the address, as package net has them.
func (k socketKey) wildcard(network string, port uint16) (string, string) {
	if k.v6 {
		return network + "6", net.JoinHostPort("::", strconv.Itoa(int(port)))
	}
	return network + "4", net.JoinHostPort("0.0.0.0", strconv.Itoa(int(port)))
}

// kernelSocket is one that is bound to a device.
type kernelSocket interface {
	io.Closer
	deviceIndex() int
}

// sockets are one of each device and family, and what reads from them.
type sockets[S kernelSocket] struct {
	done    chan struct{} // closed by close
	readers sync.WaitGroup

	mu     sync.Mutex
	open   map[socketKey]S
	closed bool
}

func newSockets[S kernelSocket]() sockets[S] {
	return sockets[S]{done: make(chan struct{}), open: map[socketKey]S{}}
}

// adjust closes the sockets of devices that are gone, and opens those that are missing, of IPv6 if v6 is set. Each is read
// until it is closed.
func (s *sockets[S]) adjust(devices map[string]*Device, v6 bool, open func(key socketKey, d *Device) (S, error), read func(S)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	for key, old := range s.open {
		if d := devices[key.device]; d == nil || d.Index != old.deviceIndex() {
			_ = old.Close() // its device is gone
			delete(s.open, key)
		}
	}
	var errs []error
	for name, d := range devices {
		for _, six := range []bool{false, true} {
			key := socketKey{name, six}
			if _, ok := s.open[key]; ok || six && !v6 {
				continue
			}
			opened, err := open(key, d)
			switch {
			case err == nil:
				s.open[key] = opened
				s.readers.Go(func() { read(opened) })
			case !six || errors.Is(err, syscall.EADDRINUSE): // else the host or the device has no IPv6
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// pause waits after an error of a socket.
func (s *sockets[S]) pause() {
	select {
	case <-s.done:
	case <-time.After(errorPause):
	}
}

// close closes the sockets, and waits until nobody reads from them.
func (s *sockets[S]) close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.done)
	var errs []error
	for _, o := range s.open {
		errs = append(errs, o.Close())
	}
	s.mu.Unlock()
	s.readers.Wait()
	return errors.Join(errs...)
}
