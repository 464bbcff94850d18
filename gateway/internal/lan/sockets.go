// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"errors"
	"io"
	"net"
	"strconv"
	"syscall"
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

// sockets are one of each device and family.
type sockets[S kernelSocket] map[socketKey]S

// adjust closes the sockets of devices that are gone, and opens those that are missing, of IPv6 if v6 is set.
func (s sockets[S]) adjust(devices map[string]*Device, v6 bool, open func(key socketKey, d *Device) (S, error)) error {
	for key, old := range s {
		if d := devices[key.device]; d == nil || d.Index != old.deviceIndex() {
			_ = old.Close() // its device is gone
			delete(s, key)
		}
	}
	var errs []error
	for name, d := range devices {
		for _, six := range []bool{false, true} {
			key := socketKey{name, six}
			if _, ok := s[key]; ok || six && !v6 {
				continue
			}
			opened, err := open(key, d)
			switch {
			case err == nil:
				s[key] = opened
			case !six || errors.Is(err, syscall.EADDRINUSE): // else the host or the device has no IPv6
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func (s sockets[S]) close() error {
	var errs []error
	for _, o := range s {
		errs = append(errs, o.Close())
	}
	return errors.Join(errs...)
}
