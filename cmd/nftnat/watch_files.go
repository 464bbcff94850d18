// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
)

// socketUmask leaves a socket that bind(2) makes mode 0660. What else a daemon makes once it
// is up is a file of mode 0600.
const socketUmask = 0o117

// ownSocketFiles prepares a process for making the file of its socket anew when it is
// confined, and cannot change the mode and the group of files any more: files that it makes
// have them from the start.
func (s *server) ownSocketFiles(group int) {
	if _, handed := s.listener.(*net.UnixListener); handed {
		return
	}
	unix.Umask(socketUmask)
	if group == ownGroup {
		return
	}
	// Of all threads, unlike that of package unix.
	if err := syscall.Setregid(-1, group); err != nil {
		s.log.Warn("the socket would lose its group if it had to be made anew", "group", group, "error", err)
	}
}

// watchFiles makes the file of the socket and the state file anew when others have removed
// them, and says so once if that cannot be. It returns, and so the daemon ends, when another
// server has the place of this one.
func (s *server) watchFiles(ctx context.Context) error {
	ticker := time.NewTicker(watchPause)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if s.lookForSocket(ctx) {
				return nil
			}
			s.lookForState()
		}
	}
}

func (s *server) lookForSocket(ctx context.Context) (superseded bool) {
	restored, err := api.Restore(s.listener)
	said := ""
	if err != nil {
		said = oneLine(err.Error())
	}
	before := s.socketGone.Swap(&said)
	switch {
	case s.superseded(ctx, err):
		s.log.Warn("another server listens at the socket's path, and so the daemon ends", "socket", s.listener.Addr())
		return true
	case restored:
		s.log.Warn("others removed the socket: it is there again", "socket", s.listener.Addr())
	case err == nil || before != nil && *before == said:
	case s.givenSocketGone(err):
		s.log.Warn("others removed the socket, which the service manager made: restart its unit for commands to find this daemon", "error", err)
	default:
		s.log.Warn("commands do not find this daemon: end it, and they start another", "error", err)
	}
	return false
}

// supersededPatience bounds how long a server that has the path of the socket is waited for.
// With watchPause and drainTimeout it is less than successionTimeout, for which that server
// waits until this one has ended.
const supersededPatience = 2 * time.Second

// superseded reports whether another server listens at the path of this daemon's socket, to
// serve the same table: the service manager put its own socket there, and the service waits
// for the table. One that answers has another table or namespace, and stands only in the way
// of commands.
func (s *server) superseded(ctx context.Context, err error) bool {
	if !errors.Is(err, fs.ErrExist) {
		s.othersPath = false
		return false
	}
	if _, handed := s.listener.(*net.UnixListener); handed || s.othersPath {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, supersededPatience)
	defer cancel()
	_, err = api.NewClient(s.listener.Addr().String()).Status(ctx)
	s.othersPath = err == nil
	return errors.Is(err, context.DeadlineExceeded)
}

func (s *server) lookForState() {
	if s.file == nil {
		return
	}
	restored, err := s.file.Restore()
	said := ""
	if err != nil {
		said = oneLine(err.Error())
	}
	before := s.stateGone.Swap(&said)
	if restored {
		s.log.Warn("others removed the state file or its lock: it is there again")
	}
	if err != nil && (before == nil || *before != said) {
		s.log.Warn("the state file is not kept", "error", err)
	}
}

// givenSocketGone reports whether it is for the service manager to make a socket anew.
func (s *server) givenSocketGone(err error) bool {
	_, handed := s.listener.(*net.UnixListener)
	return handed && errors.Is(err, fs.ErrNotExist)
}
