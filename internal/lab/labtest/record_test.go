// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
)

// ending is how a test ended.
type ending string

const (
	passed  ending = "passed"
	failed  ending = "failed"
	skipped ending = "skipped"
)

// recorder is a testing.TB that remembers how its test ended, so that failing
// can be tested. What it does not have is the real test's.
type recorder struct {
	testing.TB

	mu      sync.Mutex
	how     ending
	text    string
	cleanup []func()
}

func (r *recorder) note(how ending, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.how = how
	r.text += text
}

func (r *recorder) Helper()                      {}
func (r *recorder) Cleanup(f func())             { r.cleanup = append(r.cleanup, f) }
func (r *recorder) Failed() bool                 { return r.how == failed }
func (r *recorder) Log(args ...any)              { r.note(r.how, fmt.Sprintln(args...)) }
func (r *recorder) Error(args ...any)            { r.note(failed, fmt.Sprintln(args...)) }
func (r *recorder) Errorf(f string, args ...any) { r.note(failed, fmt.Sprintf(f, args...)) }
func (r *recorder) Fatal(args ...any)            { r.Error(args...); panic(r) }
func (r *recorder) Fatalf(f string, args ...any) { r.Errorf(f, args...); panic(r) }
func (r *recorder) Skip(args ...any)             { r.note(skipped, fmt.Sprintln(args...)); panic(r) }

// record runs a test, with its clean-up, and returns how it ended and what it
// had to say.
func record(t *testing.T, test func(testing.TB)) (string, ending) {
	t.Helper()
	r := &recorder{TB: t, how: passed}
	func() {
		defer r.stopped()
		test(r)
	}()
	for _, f := range slices.Backward(r.cleanup) {
		f()
	}
	return r.text, r.how
}

// stopped takes the panic that stands in for FailNow, and no other.
func (r *recorder) stopped() {
	if v := recover(); v != nil && v != any(r) {
		panic(v)
	}
}
