// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package logbound

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// logger logs from info on, without times.
func logger() (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}})), &b
}

// Of lines that come faster, one a second is written, and none is uncounted.
func TestLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, told := logger()
		l := New(log, "more")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); l.Run(ctx) }()
		line := func(n int) { log.Log(ctx, l.Level(), "line", "n", n) }
		for n := range 250 { // in 1.75 s
			line(n)
			time.Sleep(7 * time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		line(250)
		line(251)
		cancel()
		<-done
		require.Equal(t, []string{
			"msg=line n=0", "msg=more not_listed=142", "msg=more not_listed=107", "msg=line n=250", "msg=more not_listed=1", "",
		}, strings.Split(told.String(), "\n"))
	})
}

// What makes few lines has all of them, and nothing waits for nothing.
func TestFewLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, told := logger()
		l := New(log, "more")
		for n := range 3 {
			log.Log(t.Context(), l.Level(), "line", "n", n)
			time.Sleep(Pause)
		}
		require.Equal(t, "msg=line n=0\nmsg=line n=1\nmsg=line n=2\n", told.String())
	})
}

// A line that is repeated is written once a second, and others as they come.
func TestRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, told := logger()
		log = slog.New(Repeated(log.Handler()))
		for n := range 25 { // in 2.5 s
			log.Info("on", "port", "p0")
			log.Warn("back", "port", "p0")
			if n == 3 {
				log.Info("on", "port", "p1")
			}
			time.Sleep(100 * time.Millisecond)
		}
		require.Equal(t, strings.Split(`msg=on port=p0
msg=back port=p0
msg=on port=p1
msg=on port=p0 not_listed=9
msg=back port=p0 not_listed=9
msg=on port=p0 not_listed=9
msg=back port=p0 not_listed=9
`, "\n"), strings.Split(told.String(), "\n"))
		for n := range 4 * mostKept {
			log.Info("each", "n", n)
		}
		log.With("of", "a").Info("on", "port", "p0")
		require.Equal(t, 8+4*mostKept, strings.Count(told.String(), "\n"))
	})
}
