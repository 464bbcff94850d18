// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// leakTimeout bounds the wait for goroutines and descriptors to end.
const leakTimeout = 10 * time.Second

// LeakCheck fails the test if there are goroutines or open files after its cleanup that
// were not there when LeakCheck was called, and that do not end within 10 s. Call it
// first, so that it checks last, and not in parallel tests, whose goroutines it would see.
func LeakCheck(tb testing.TB) {
	tb.Helper()
	before := snapshot()
	tb.Cleanup(func() {
		if err := before.wait(Stretch(leakTimeout)); err != nil {
			tb.Error(err)
		}
	})
}

// things are the goroutines and files of a process at one moment.
type things struct {
	goroutines map[string]string // stack by number
	files      map[string]string // what is open by descriptor
}

func snapshot() things {
	return things{goroutines: goroutines(), files: files()}
}

// wait waits until nothing has been added to ts, and returns what has if time runs out.
func (ts things) wait(timeout time.Duration) error {
	end := time.Now().Add(timeout)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		// Keep-alive connections, and the pipes of package net for splice, are in pools
		// until a collection.
		http.DefaultClient.CloseIdleConnections()
		runtime.GC()
		err := ts.compare()
		if err == nil || time.Now().After(end) {
			return err
		}
		time.Sleep(pause)
	}
}

func (ts things) compare() error {
	now := snapshot()
	var errs []error
	for id, stack := range now.goroutines {
		if _, ok := ts.goroutines[id]; !ok {
			errs = append(errs, fmt.Errorf("leaked goroutine %s", stack))
		}
	}
	for fd, file := range now.files {
		if ts.files[fd] != file {
			errs = append(errs, fmt.Errorf("leaked descriptor %s: %s", fd, file))
		}
	}
	return errors.Join(errs...)
}

// lasting are goroutines that never end: of package testing and of signal.Notify.
var lasting = []string{
	"testing.(*M).",
	"testing.tRunner.func",
	"testing.runFuzzing(",
	"testing.RunTests(",
	"os/signal.signal_recv(",
	"os/signal.loop(",
	"runtime.ensureSigM",
}

func goroutines() map[string]string {
	buf := make([]byte, 64<<10)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	stacks := strings.Split(string(buf), "\n\n")
	found := make(map[string]string, len(stacks))
	// The first is this one.
	for _, stack := range stacks[1:] {
		if slices.ContainsFunc(lasting, func(s string) bool { return strings.Contains(stack, s) }) {
			continue
		}
		id, _, _ := strings.Cut(strings.TrimPrefix(stack, "goroutine "), " ")
		found[id] = stack
	}
	return found
}

// files lists the open descriptors. The runtime opens some of its own when the
// network is first used, and keeps them.
func files() map[string]string {
	found := make(map[string]string)
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return found
	}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		switch {
		case err != nil: // the descriptor of the directory itself
		case target == "anon_inode:[eventpoll]", target == "anon_inode:[eventfd]":
		default:
			found[e.Name()] = target
		}
	}
	return found
}
