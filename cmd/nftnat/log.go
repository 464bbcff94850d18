// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/printable"
)

// handler writes each record as a line, in one piece so that journald takes it for one: as a
// JSON object, or like the program's own messages:
//
//	nftnat: turned on forwarding: sysctl=net/ipv4/ip_forward was=0 is=1
//
// After the message are keys and values as slog.TextHandler writes them: values with blanks,
// quotes, equal signs or control characters are quoted as in Go.
type handler struct {
	*lineWriter
	slog.Handler // writes to the lineWriter's line: a JSON object, or keys and values
}

// lineWriter is shared by a handler and those that are made from it.
type lineWriter struct {
	w    io.Writer
	json bool
	// priorities says that each line begins with its priority, as in sd-daemon(3).
	priorities bool

	mu   sync.Mutex
	line bytes.Buffer
}

// newLineHandler returns a handler of text that leaves out records below a level.
func newLineHandler(w io.Writer, level slog.Level, priorities bool) *handler {
	lw := &lineWriter{w: w, priorities: priorities}
	return &handler{lw, slog.NewTextHandler(&lw.line, &slog.HandlerOptions{Level: level, ReplaceAttr: dropBuiltIn})}
}

func newJSONHandler(w io.Writer, level slog.Level, priorities bool) *handler {
	lw := &lineWriter{w: w, json: true, priorities: priorities}
	return &handler{lw, slog.NewJSONHandler(&lw.line, &slog.HandlerOptions{Level: level})}
}

// dropBuiltIn leaves out what the line has before the keys and values. Keys of the program's own
// must not be these.
func dropBuiltIn(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && (a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
		return slog.Attr{}
	}
	return a
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.line.Reset()
	if !h.json && isTerminal(h.w) {
		h.line.WriteString(eraseLine) // where progress may stand
	}
	if h.priorities {
		h.line.WriteString(priority(r.Level))
	}
	bare := 0
	if !h.json {
		h.line.WriteString("nftnat: " + printable.Line(r.Message) + ": ")
		bare = h.line.Len()
		r.Time = time.Time{} // the inner handler writes none then
	}
	if err := h.Handler.Handle(ctx, r); err != nil {
		return err
	}
	if h.line.Len() == bare+1 { // nothing but the end of the line
		h.line.Truncate(bare - len(": "))
		h.line.WriteByte('\n')
	}
	_, err := h.w.Write(h.line.Bytes())
	return err
}

func (h *handler) WithAttrs(as []slog.Attr) slog.Handler {
	return &handler{h.lineWriter, h.Handler.WithAttrs(as)}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.lineWriter, h.Handler.WithGroup(name)}
}

// priority is the prefix by which journald knows how urgent a line is (sd-daemon(3)).
func priority(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "<3>"
	case l >= slog.LevelWarn:
		return "<4>"
	case l >= slog.LevelInfo:
		return "<6>"
	}
	return "<7>"
}

// The environment is used for --log-format and --log-level if they are not given, so that both
// reach a daemon that another command starts.
const (
	envLogFormat = "NFTNAT_LOG_FORMAT"
	envLogLevel  = "NFTNAT_LOG_LEVEL"
)

// logFlags are the options of the daemon's log.
type logFlags struct{ format, level string }

func (f *logFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.format, "log-format", "text", "write the log as `FORMAT`, text or json (environment: "+envLogFormat+")")
	cmd.Flags().StringVar(&f.level, "log-level", "info", "log nothing below `LEVEL`, debug, info, warn or error (environment: "+envLogLevel+")")
}

// complete takes from the environment what was not given on the command line.
func (f *logFlags) complete(given func(flag string) bool) {
	if text := os.Getenv(envLogFormat); text != "" && !given("log-format") {
		f.format = text
	}
	if text := os.Getenv(envLogLevel); text != "" && !given("log-level") {
		f.level = text
	}
}

// logger returns the log that the flags describe. Its lines begin with priorities if w is the
// journal.
func (f *logFlags) logger(w io.Writer) (*slog.Logger, error) {
	levels := map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}
	level, ok := levels[f.level]
	if !ok {
		return nil, usageError{fmt.Errorf("invalid log level %q: it is not debug, info, warn or error", f.level)}
	}
	file, ok := w.(*os.File)
	journaled := ok && toJournal(file)
	switch f.format {
	case "text":
		return slog.New(newLineHandler(w, level, journaled)), nil
	case "json":
		return slog.New(newJSONHandler(w, level, journaled)), nil
	}
	return nil, usageError{fmt.Errorf("invalid log format %q: it is not text or json", f.format)}
}

// toJournal reports whether a file is the stream to journald that the service manager gave
// this process (systemd.exec(5), JOURNAL_STREAM). The variable may have been inherited while
// the stream was not.
func toJournal(f *os.File) bool {
	stream := os.Getenv("JOURNAL_STREAM")
	var stat unix.Stat_t
	return stream != "" && unix.Fstat(int(f.Fd()), &stat) == nil && stream == fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
}
