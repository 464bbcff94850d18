// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nfttest

import "sync"

// injected are the failures a test asked for.
type injected struct {
	mu            sync.Mutex
	next          map[string][]error
	before, after func(op string) error
}

// FailNext makes the next call of a method of any connection do nothing but return
// the error. The method is named as in Go: "Replace", "Restore", "Repair", "Update",
// "Elements", "Table", "Generation", "Drift", "DeleteTable", "Owns", "Claim". Further calls
// of FailNext are for the calls that follow.
func (k *Kernel) FailNext(method string, err error) {
	k.injected.mu.Lock()
	defer k.injected.mu.Unlock()
	if k.injected.next == nil {
		k.injected.next = map[string][]error{}
	}
	k.injected.next[method] = append(k.injected.next[method], err)
}

// Hook sets what is called before each operation, with the method's name; nil
// removes it. An error is the operation's, which is then not done. f may use the
// Kernel, to change it just before a commit.
func (k *Kernel) Hook(f func(op string) error) {
	k.injected.mu.Lock()
	defer k.injected.mu.Unlock()
	k.injected.before = f
}

// After sets what is called after each operation that succeeded, with the method's
// name; nil removes it. An error is given as the operation's although it was done:
// an answer that went wrong. f may use the Kernel.
func (k *Kernel) After(f func(op string) error) {
	k.injected.mu.Lock()
	defer k.injected.mu.Unlock()
	k.injected.after = f
}

func (in *injected) runBefore(op string) error {
	in.mu.Lock()
	f := in.before
	if errs := in.next[op]; len(errs) > 0 {
		in.next[op] = errs[1:]
		f = func(string) error { return errs[0] }
	}
	in.mu.Unlock()
	return call(f, op)
}

func (in *injected) runAfter(op string) error {
	in.mu.Lock()
	f := in.after
	in.mu.Unlock()
	return call(f, op)
}

func call(f func(op string) error, op string) error {
	if f == nil {
		return nil
	}
	return f(op)
}
