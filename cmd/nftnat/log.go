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

// lineHandler writes records as lines like the program's own messages:
//
//	nftnat: turned on forwarding: sysctl=net/ipv4/ip_forward was=0 is=1
//
// Behind the message are keys and values as slog.TextHandler writes them: values with
// blanks, quotes, equal signs or control characters are quoted as in Go.
type lineHandler struct {
	*lineWriter
	attrs slog.Handler // writes keys and values to the lineWriter's line
}

// lineWriter is what a handler shares with those that are made of it.
type lineWriter struct {
	w     io.Writer
	level slog.Level
	// priorities is whether each line begins with its priority, as sd-daemon(3) has it.
	priorities bool

	mu   sync.Mutex
	line bytes.Buffer
}

// newLineHandler returns a handler that leaves out what is below a level.
func newLineHandler(w io.Writer, level slog.Level, priorities bool) *lineHandler {
	lw := &lineWriter{w: w, level: level, priorities: priorities}
	attrs := slog.NewTextHandler(&lw.line, &slog.HandlerOptions{Level: level, ReplaceAttr: dropBuiltIn})
	return &lineHandler{lw, attrs}
}

// dropBuiltIn leaves out what the line has elsewhere. Keys of the program's own must not be
// these.
func dropBuiltIn(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && (a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
		return slog.Attr{}
	}
	return a
}

func (h *lineHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *lineHandler) Handle(ctx context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.line.Reset()
	if isTerminal(h.w) {
		h.line.WriteString(eraseLine) // where progress may stand
	}
	if h.priorities {
		h.line.WriteString(priority(r.Level))
	}
	h.line.WriteString("nftnat: " + printable.Line(r.Message) + ": ")
	bare := h.line.Len()
	r.Time = time.Time{} // then the handler writes none
	if err := h.attrs.Handle(ctx, r); err != nil {
		return err
	}
	if h.line.Len() == bare+1 { // nothing but the end of the line
		h.line.Truncate(bare - len(": "))
		h.line.WriteByte('\n')
	}
	_, err := h.w.Write(h.line.Bytes())
	return err
}

func (h *lineHandler) WithAttrs(as []slog.Attr) slog.Handler {
	return &lineHandler{h.lineWriter, h.attrs.WithAttrs(as)}
}

func (h *lineHandler) WithGroup(name string) slog.Handler {
	return &lineHandler{h.lineWriter, h.attrs.WithGroup(name)}
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

// jsonHandler writes each record as a JSON object on a line of its own, behind its priority
// where one is wanted: in one piece, so that journald takes it for one.
type jsonHandler struct {
	*lineWriter
	slog.Handler // writes to the lineWriter's line
}

func newJSONHandler(w io.Writer, level slog.Level, priorities bool) *jsonHandler {
	lw := &lineWriter{w: w, level: level, priorities: priorities}
	return &jsonHandler{lw, slog.NewJSONHandler(&lw.line, &slog.HandlerOptions{Level: level})}
}

func (h *jsonHandler) Handle(ctx context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.line.Reset()
	if h.priorities {
		h.line.WriteString(priority(r.Level))
	}
	if err := h.Handler.Handle(ctx, r); err != nil {
		return err
	}
	_, err := h.w.Write(h.line.Bytes())
	return err
}

func (h *jsonHandler) WithAttrs(as []slog.Attr) slog.Handler {
	return &jsonHandler{h.lineWriter, h.Handler.WithAttrs(as)}
}

func (h *jsonHandler) WithGroup(name string) slog.Handler {
	return &jsonHandler{h.lineWriter, h.Handler.WithGroup(name)}
}

// The environment stands for --log-format and --log-level where they are not given, so that
// both reach a daemon that another command starts.
const (
	envLogFormat = "NFTNAT_LOG_FORMAT"
	envLogLevel  = "NFTNAT_LOG_LEVEL"
)

// logFlags say what the daemon's log is like.
type logFlags struct{ format, level string }

func (f *logFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.format, "log-format", "text", "write the log as `FORMAT`, text or json (environment: "+envLogFormat+")")
	cmd.Flags().StringVar(&f.level, "log-level", "info", "log nothing below `LEVEL`, debug, info, warn or error (environment: "+envLogLevel+")")
}

// complete takes from the environment what was not given on the command line.
func (f *logFlags) complete(given func(flag string) bool) {
	for flag, from := range map[string]struct {
		env string
		to  *string
	}{"log-format": {envLogFormat, &f.format}, "log-level": {envLogLevel, &f.level}} {
		if text := os.Getenv(from.env); text != "" && !given(flag) {
			*from.to = text
		}
	}
}

// logger returns the log that the flags ask for. Its lines begin with priorities where w
// goes to the journal.
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
