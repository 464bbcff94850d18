// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/spf13/cobra"
)

// The environment stands for --log-format and --log-level where they are not given, so that
// both reach a daemon that another command starts.
const (
	envLogFormat = "NFTNAT_LOG_FORMAT"
	envLogLevel  = "NFTNAT_LOG_LEVEL"
)

// logFlags say what the daemon's log is like.
type logFlags struct{ format, level string }

func (f *logFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.format, "log-format", "text", "write the log as `FORMAT`, text or json; "+envLogFormat+" says it too")
	cmd.Flags().StringVar(&f.level, "log-level", "info", "log nothing below `LEVEL`, debug, info, warn or error; "+envLogLevel+" says it too")
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

// logger returns the log that the flags ask for. Its lines begin with priorities where w is
// the standard error and that goes to the journal.
func (f *logFlags) logger(w io.Writer) (*slog.Logger, error) {
	levels := map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}
	level, ok := levels[f.level]
	if !ok {
		return nil, usageError{fmt.Errorf("invalid log level %q: it is not debug, info, warn or error", f.level)}
	}
	journaled := w == os.Stderr && toJournal()
	switch f.format {
	case "text":
		return slog.New(newLineHandler(w, level, journaled)), nil
	case "json":
		return slog.New(newJSONHandler(w, level, journaled)), nil
	}
	return nil, usageError{fmt.Errorf("invalid log format %q: it is not text or json", f.format)}
}

// toJournal reports whether the standard error is a stream of journald, which then reads
// priorities (systemd.exec(5), JOURNAL_STREAM). A variable that is malformed, or was
// inherited while the stream was not, says no.
func toJournal() bool {
	is, err := journal.StderrIsJournalStream()
	return err == nil && is
}
