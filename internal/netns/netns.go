// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Do calls f in the network namespace of the descriptor fd and waits for it. The error is
// f's, or says why the namespace could not be entered: f has not run then.
func Do(fd int, f func() error) (err error) {
	OnThread(func() {
		if err = unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("enter network namespace: %w", err)
			return
		}
		err = f()
	})
	return err
}

// OnThread calls f on a thread that runs nothing else afterwards, and waits for it: f may
// change whatever belongs to a thread. A panic in f ends the process; runtime.Goexit in f
// ends f alone.
func OnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the runtime ends the thread with this goroutine.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			OnThread(f) // on another thread, since this goroutine keeps the first
			return
		}
		f()
	}()
	<-done
}

// Dir is where ip-netns(8) keeps the names of network namespaces.
const Dir = "/run/netns"

// Inode returns the number by which the kernel knows the network namespace at a path
// (namespaces(7)). Empty: that of the calling thread.
func Inode(path string) (uint64, error) {
	if path == "" {
		path = "/proc/thread-self/ns/net"
	}
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return stat.Ino, nil
}
