// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// socket is a listener whose file was made by Listen, and can be made anew: its listening
// socket is another one then.
type socket struct {
	path string

	mu       sync.Mutex
	listener *net.UnixListener
	// before are listening sockets that had the path, and may have clients in their queues.
	before []*net.UnixListener
	// file is what was made at path; nil: it was gone when the listener was inherited.
	file     os.FileInfo
	deadline time.Time
	closed   bool
}

func (s *socket) current() *net.UnixListener {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listener
}

// Accept goes on with another listening socket when that has taken the place of this one.
func (s *socket) Accept() (net.Conn, error) {
	for {
		if c := s.acceptBefore(); c != nil {
			return c, nil
		}
		l := s.current()
		c, err := l.AcceptUnix()
		if err == nil {
			return c, nil
		}
		if l == s.current() {
			return nil, err
		}
	}
}

// acceptBefore lets in who is in the queue of a socket that had the path before. When nobody
// is, nobody will come: it is closed.
func (s *socket) acceptBefore() net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.before) != 0 {
		if c, err := takeQueued(s.before[0]); err == nil {
			return c
		}
		_ = s.before[0].Close() // frees it whatever it returns (close(2))
		s.before = s.before[1:]
	}
	return nil
}

// Addr returns where the socket is now; the kernel tells where it was bound.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

func (s *socket) SetDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	return s.listener.SetDeadline(t)
}

func (s *socket) SyscallConn() (syscall.RawConn, error) { return s.current().SyscallConn() }

// Close removes the file, if it is still the socket's own, and closes the socket. In
// this order: as long as the socket listens, no server takes the file for stale, and
// so none replaces it between the look and the removal.
func (s *socket) Close() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed && s.file != nil {
		if file, statErr := os.Lstat(s.path); statErr == nil && os.SameFile(file, s.file) {
			err = os.Remove(s.path)
		}
	}
	return errors.Join(err, s.close())
}

// abandon closes the socket and leaves the file.
func (s *socket) abandon() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.close()
}

func (s *socket) close() error {
	s.closed = true
	for _, l := range s.before {
		_ = l.Close() // nobody waits for it any more
	}
	s.before = nil
	return s.listener.Close()
}
