// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
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
	h.line.WriteString("nftnat: " + oneLine(r.Message) + ": ")
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
