// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLoggerQuiet(t *testing.T) {
	var told bytes.Buffer
	g := global{stderr: &told}
	g.logger().Info("said", "why", "it was not asked to be quiet")
	require.Equal(t, "nftnat: said: why=\"it was not asked to be quiet\"\n", told.String())
	told.Reset()
	g.quiet = true
	g.logger().Info("not said")
	require.Empty(t, told.String())
}

// Whatever a value holds, the line is one and can be taken apart again.
func TestLogLines(t *testing.T) {
	var told bytes.Buffer
	log := slog.New(newLineHandler(&told, slog.LevelInfo, true))
	log.Debug("not said")
	log.Info("said")
	log.Warn("two\nlines", "key", "a \"b\"\n\x1b[2J=c", "error", errors.New("x"))
	log.With("uid", 0).WithGroup("g").Error("failed", "empty", "", "mapping", "8080->172.17.0.2:80")
	require.Equal(t, `<6>nftnat: said
<4>nftnat: two; lines: key="a \"b\"\n\x1b[2J=c" error=x
<3>nftnat: failed: uid=0 g.empty="" g.mapping=8080->172.17.0.2:80
`, told.String())
}

func TestLogJSON(t *testing.T) {
	var told bytes.Buffer
	flags := logFlags{format: "json", level: "debug"}
	log, err := flags.logger(&told)
	require.NoError(t, err)
	log.With("uid", 0).Debug("said", "key", "a\nb")
	var line map[string]any
	require.NoError(t, json.Unmarshal(told.Bytes(), &line))
	require.NotEmpty(t, line["time"])
	delete(line, "time")
	require.Equal(t, map[string]any{"level": "DEBUG", "msg": "said", "uid": 0.0, "key": "a\nb"}, line)

	told.Reset()
	slog.New(newJSONHandler(&told, slog.LevelInfo, true)).With("a", 1).WithGroup("g").Warn("said", "b", 2)
	require.Regexp(t, `^<4>\{"time":"[^"]+","level":"WARN","msg":"said","a":1,"g":\{"b":2\}\}\n$`, told.String())
}

func TestLogLevel(t *testing.T) {
	for level, want := range map[string]int{"debug": 4, "info": 3, "warn": 2, "error": 1} {
		for _, format := range []string{"text", "json"} {
			var told bytes.Buffer
			log, err := (&logFlags{format: format, level: level}).logger(&told)
			require.NoError(t, err)
			log.Debug("said")
			log.Info("said")
			log.Warn("said")
			log.Error("said")
			require.Equal(t, want, strings.Count(told.String(), "\n"), "%s %s", level, format)
		}
	}
}

// journald is told priorities only where the standard error is its stream.
func TestToJournal(t *testing.T) {
	var stat syscall.Stat_t
	require.NoError(t, syscall.Fstat(int(os.Stderr.Fd()), &stat))
	for stream, want := range map[string]bool{
		"": false, "x": false, "1:2": false, fmt.Sprintf("%d:%d", stat.Dev, stat.Ino+1): false,
		fmt.Sprintf("%d:%d", stat.Dev, stat.Ino): true,
	} {
		t.Setenv("JOURNAL_STREAM", stream)
		require.Equal(t, want, toJournal(os.Stderr), stream)
	}
}

// Bad input is refused with one line before anything is done, whichever way it comes.
func TestServeFlagsBad(t *testing.T) {
	for _, x := range []struct{ env, flag, says string }{
		{"", "--log-level=loud", `invalid log level "loud": it is not debug, info, warn or error`},
		{"", "--log-level=", `invalid log level "": it is not debug, info, warn or error`},
		{"", "--log-level=INFO", `invalid log level "INFO": it is not debug, info, warn or error`},
		{"", "--log-format=xml", `invalid log format "xml": it is not text or json`},
		{envLogLevel + "=loud", "", `invalid log level "loud": it is not debug, info, warn or error`},
		{envLogFormat + "=xml", "", `invalid log format "xml": it is not text or json`},
		{"", "--metrics-mappings=-1", "invalid number of mappings -1 for the metrics: it is not 0 to 1000"},
		{"", "--state=", "--state has no value"},
		{"", "--metrics=", "--metrics has no value"},
		{"", "--group=", "--group has no value"},
		{"", "--metrics=nope", "listen for metrics: address nope: missing port in address"},
		{"", "--metrics=:99999", "listen for metrics: address 99999: invalid port"},
		{"", "--metrics-mappings=1001", "invalid number of mappings 1001 for the metrics: it is not 0 to 1000"},
	} {
		t.Run(x.env+x.flag, func(t *testing.T) {
			if name, value, ok := strings.Cut(x.env, "="); ok {
				t.Setenv(name, value)
			}
			socket := t.TempDir() + "/nftnat.sock"
			// No daemon starts there, should the flag be taken.
			args := []string{"serve", "--socket", socket, "--netns", t.TempDir() + "/nosuch"}
			if x.flag != "" {
				args = append(args, x.flag)
			}
			var stdout, stderr bytes.Buffer
			require.Equal(t, exitBadInput, run(args, nil, &stdout, &stderr))
			require.Regexp(t, "^nftnat: "+regexp.QuoteMeta(x.says)+"[^\n]*\n$", stderr.String())
			require.Empty(t, stdout.String())
			require.NoFileExists(t, socket)
		})
	}
	for _, flag := range []string{"--metrics-mappings=x", "--metrics-mappings"} {
		var stdout, stderr bytes.Buffer
		require.Equal(t, exitBadInput, run([]string{"serve", flag}, nil, &stdout, &stderr))
		require.Equal(t, 1, strings.Count(stderr.String(), "\n"), stderr.String())
	}
}
