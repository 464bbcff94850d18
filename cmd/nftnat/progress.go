// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
)

const (
	// progressDelay is how long work takes before somebody might wonder about it.
	progressDelay = 300 * time.Millisecond
	// progressPause is between two looks.
	progressPause = 200 * time.Millisecond
)

// eraseLine is how a terminal is told to begin the line anew and to wipe it (ECMA-48,
// CR and EL). Every terminal of this century understands it.
const eraseLine = "\r\x1b[K"

// showProgress shows on a terminal how far the publisher's work is, until it is told to
// stop: then it is wiped. Where standard error is none, nothing is shown.
func (g *global) showProgress(ctx context.Context, p publisher) (stop func()) {
	if g.quiet || g.json || !isTerminal(g.stderr) {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var showing sync.WaitGroup
	showing.Go(func() { follow(ctx, g.stderr, p.Progress) })
	return func() {
		cancel()
		showing.Wait()
	}
}

// isTerminal reports whether what is written there is seen by somebody (tcgetattr(3)).
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// follow writes how far the work is, on one line, until the context is done.
func follow(ctx context.Context, w io.Writer, look func(context.Context) (api.Progress, error)) {
	timer := time.NewTimer(progressDelay)
	defer timer.Stop()
	shown := ""
	for {
		select {
		case <-ctx.Done():
			if shown != "" {
				_, _ = io.WriteString(w, eraseLine)
			}
			return
		case <-timer.C:
		}
		line := "waiting for the daemon"
		if progress, err := look(ctx); err == nil && progress.Step != "" {
			line = progressLine(progress)
		}
		if line != shown && ctx.Err() == nil {
			shown = line
			_, _ = io.WriteString(w, eraseLine+"nftnat: "+line)
		}
		timer.Reset(progressPause)
	}
}

func progressLine(p api.Progress) string {
	words := map[string]string{
		"reserve": "reserving ports", "bind": "binding ports", "forward": "turning on forwarding",
		"commit": "changing the table", "save": "writing the state file",
		"flows": "looking for flows", "open": "opening proxies", "done": "done",
	}[p.Step]
	if words == "" {
		words = p.Step // of a daemon that knows more
	}
	if p.Total != 0 {
		words += fmt.Sprintf(": %d of %d", p.Done, p.Total)
	}
	return words
}
