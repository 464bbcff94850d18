// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ring reads a ring buffer (Documentation/bpf/ringbuf.rst). Read is for one goroutine at a time.
type Ring struct {
	events             int // descriptors; that of the map is the caller's
	wake               int
	consumer, producer []byte
	read, written      *uintptr
	data               []byte // twice in a row, so that no record ends before it has begun
	mask               uintptr
}

// ErrWoken says that Wake was called.
var ErrWoken = errors.New("woken")

// The header of a record: its length, with two marks, and something of the kernel's.
const (
	recordHeader  = 8
	recordBusy    = 1 << 31
	recordDiscard = 1 << 30
)

// NewRing opens a map, which is open until the ring is closed.
func NewRing(m *Map) (_ *Ring, err error) {
	page, size := os.Getpagesize(), int(m.spec.MaxEntries)
	r := &Ring{events: m.fd, wake: -1, mask: uintptr(size - 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	if r.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("open eventfd: %w", err)
	}
	if r.consumer, err = unix.Mmap(m.fd, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map ring: %w", err)
	}
	if r.producer, err = unix.Mmap(m.fd, int64(page), page+2*size, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map ring: %w", err)
	}
	r.read = (*uintptr)(unsafe.Pointer(unsafe.SliceData(r.consumer)))
	r.written = (*uintptr)(unsafe.Pointer(unsafe.SliceData(r.producer)))
	r.data = r.producer[page:]
	return r, nil
}

// Close unmaps the ring. Nobody may be in Read.
func (r *Ring) Close() error {
	var errs []error
	for _, b := range [][]byte{r.consumer, r.producer} {
		if b != nil {
			errs = append(errs, unix.Munmap(b))
		}
	}
	r.consumer, r.producer = nil, nil
	if r.wake >= 0 {
		errs = append(errs, unix.Close(r.wake))
		r.wake = -1
	}
	return errors.Join(errs...)
}

// Wake lets a Read that waits, or the next one, return ErrWoken.
func (r *Ring) Wake() {
	_, _ = unix.Write(r.wake, binary.NativeEndian.AppendUint64(nil, 1)) // it has room
}

// Read appends the next record to b, and waits for it.
func (r *Ring) Read(b []byte) ([]byte, error) {
	for {
		if record, ok := r.next(b); ok {
			return record, nil
		}
		fds := []unix.PollFd{{Fd: int32(r.events), Events: unix.POLLIN}, {Fd: int32(r.wake), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("wait for ring: %w", err)
		}
		if fds[1].Revents != 0 {
			_, _ = unix.Read(r.wake, make([]byte, 8))
			return nil, ErrWoken
		}
	}
}

// next appends the next record to b, if there is one.
func (r *Ring) next(b []byte) ([]byte, bool) {
	for {
		read := atomic.LoadUintptr(r.read)
		if read == atomic.LoadUintptr(r.written) {
			return b, false
		}
		record := r.data[read&r.mask:]
		length := atomic.LoadUint32((*uint32)(unsafe.Pointer(unsafe.SliceData(record))))
		if length&recordBusy != 0 {
			return b, false // being written; the kernel tells when it is done
		}
		n := length &^ recordDiscard
		if length&recordDiscard == 0 {
			b = append(b, record[recordHeader:recordHeader+n]...)
		}
		atomic.StoreUintptr(r.read, read+uintptr(n+recordHeader+7)&^7)
		if length&recordDiscard == 0 {
			return b, true
		}
	}
}
