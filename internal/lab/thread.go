// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/nftnat/nftnat/internal/netns"
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

// onThread runs fn on a thread of its own ([netns.OnThread]) and waits for it. A panic
// and runtime.Goexit in fn go on in the caller.
func onThread(fn func() error) error {
	out := outcome{goexit: true}
	netns.OnThread(func() { out.run(fn) })
	switch {
	case out.panic != nil:
		panic(out.panic) //nolint:forbidigo // fn has panicked, and its caller is to see it
	case out.goexit:
		runtime.Goexit()
	}
	return out.err
}

// run calls fn and keeps how it ended.
func (out *outcome) run(fn func() error) {
	defer func() {
		if !out.goexit {
			return
		}
		if v := recover(); v != nil {
			out.goexit, out.panic = false, &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	out.err = fn()
	out.goexit = false
}
