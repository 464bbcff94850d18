// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
)

// Lend returns the descriptor of a server's listener, for another process to have it too;
// it stays the listener's. made is whether its file was made by Listen, and so has to be
// removed by whoever closes it.
func Lend(l net.Listener) (fd int, made bool, err error) {
	sc, ok := l.(syscall.Conn)
	if !ok {
		return 0, false, fmt.Errorf("lend %s: %T has no descriptor", l.Addr(), l)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, false, fmt.Errorf("lend %s: %w", l.Addr(), err)
	}
	_, made = l.(*socket)
	return fd, made, raw.Control(func(n uintptr) { fd = int(n) })
}

// Inherit makes a listener of what another process has lent, with the path that its Addr
// had; it owns the descriptor, also if there is an error. Close removes the file if it was
// made by Listen. A group that is not negative becomes that of the file.
func Inherit(fd int, path string, made bool, group int) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), path)
	l, err := net.FileListener(f)
	err = errors.Join(err, f.Close())
	if err != nil {
		return nil, fmt.Errorf("take over %s: %w", path, err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("take over %s: it is no unix socket", path), l.Close())
	}
	u.SetUnlinkOnClose(false)
	if !made {
		return u, nil
	}
	s := &socket{listener: u, path: path}
	if group >= 0 {
		err = os.Chown(path, -1, group)
	}
	if err == nil {
		s.file, err = os.Lstat(path)
	}
	// If others have just removed it, it is made anew when this process serves.
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("take over %s: %w", path, err), u.Close())
	}
	return s, nil
}

// Abandon closes a listener that another process has now, and leaves its file.
func Abandon(l net.Listener) error {
	if s, ok := l.(*socket); ok {
		return s.abandon()
	}
	return l.Close()
}
