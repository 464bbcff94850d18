// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Enter moves the whole process into the network namespace at path, where it is at home
// from then on: unlike one whose threads visit a namespace it needs no privilege for it
// later. Sockets that are open stay where they are.
//
// Errors: fs.ErrPermission without CAP_SYS_ADMIN; fs.ErrNotExist; ErrCgo. Nothing has
// changed then.
func Enter(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(allThreads(unix.SYS_SETNS, uintptr(fd), unix.CLONE_NEWNET), unix.Close(fd))
	}
	if err != nil {
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return nil
}
