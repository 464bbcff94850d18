// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// A PanicError is what [NS.Do] panics with when its function panicked: the
// function ran on another goroutine, whose stack would be lost otherwise.
type PanicError struct {
	Value any    // what the function panicked with, never nil
	Stack []byte // the stack of the goroutine that panicked
}

// Error prints the value and the stack of the goroutine that panicked.
func (e *PanicError) Error() string {
	return fmt.Sprintf("%v\n\nthe function inside the namespace was at:\n%s", e.Value, e.Stack)
}

// Unwrap returns the value if it is an error, else nil.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// outcome is how a function ended: by returning, by a panic, or by
// runtime.Goexit (which is what FailNow and SkipNow of a test come down to).
type outcome struct {
	err    error
	panic  *PanicError
	goexit bool
}

// onThread runs fn on an operating system thread of its own and waits for it.
// The thread never runs anything else afterwards, so fn may change whatever
// belongs to a thread. A panic and runtime.Goexit in fn go on in the caller.
func onThread(fn func() error) error {
	done := make(chan outcome, 1)
	go runLocked(fn, done)
	out := <-done
	switch {
	case out.panic != nil:
		panic(out.panic) //nolint:forbidigo // fn has panicked, and its caller is to see it
	case out.goexit:
		runtime.Goexit()
	}
	return out.err
}

// runLocked calls fn and reports how it ended. The goroutine ends still
// locked, whereupon the runtime ends the thread too.
func runLocked(fn func() error, done chan<- outcome) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The main thread of a process cannot end before the process does:
		// the runtime parks it for ever, in the wrong namespace, and
		// /proc/self/ns/net is the main thread's. While it is held here a
		// second goroutine cannot be given it.
		inner := make(chan outcome, 1)
		go runLocked(fn, inner)
		done <- <-inner
		runtime.UnlockOSThread()
		return
	}
	out := outcome{goexit: true}
	defer func() {
		if out.goexit {
			if v := recover(); v != nil {
				out.goexit, out.panic = false, &PanicError{Value: v, Stack: debug.Stack()}
			}
		}
		done <- out
	}()
	out.err = fn()
	out.goexit = false
}
