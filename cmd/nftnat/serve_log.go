// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
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
