// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
)

// lineHandler writes what the engine logs as lines like the program's own messages:
// "nftnat: turned on forwarding: sysctl=…".
type lineHandler struct {
	w     io.Writer
	attrs []slog.Attr
}

func (h *lineHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	if isTerminal(h.w) {
		b.WriteString(eraseLine) // where progress may stand
	}
	fmt.Fprintf(&b, "nftnat: %s", oneLine(r.Message))
	separator := ":"
	write := func(a slog.Attr) bool {
		fmt.Fprintf(&b, "%s %s=%s", separator, a.Key, oneLine(a.Value.String()))
		separator = ""
		return true
	}
	for _, a := range h.attrs {
		write(a)
	}
	r.Attrs(write)
	b.WriteByte('\n')
	_, err := io.WriteString(h.w, b.String())
	return err
}

func (h *lineHandler) WithAttrs(as []slog.Attr) slog.Handler {
	return &lineHandler{w: h.w, attrs: append(slices.Clip(h.attrs), as...)}
}

func (h *lineHandler) WithGroup(string) slog.Handler { return h }
