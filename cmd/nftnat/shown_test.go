// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// What a terminal shows of what others wrote is one line without anything that it acts
// on, in what the program says and in what it logs.
func TestShownText(t *testing.T) {
	const forged = "\x1b[1A\x1b[2K\r\nnftnat: all is well\u202e\x9b"
	for _, args := range [][]string{
		{"--" + forged}, {forged}, {"--netns", forged, "ls", "--direct"}, {"apply", "-f", "/" + forged}, {"--table", forged, "plan"},
		{"add", forged, "80", "172.30.0.2"}, {"add", "tcp", forged, "172.30.0.2"}, {"--socket", "/nowhere/" + forged, "events"},
	} {
		var out, errs bytes.Buffer
		require.NotZero(t, run(args, strings.NewReader(""), &out, &errs), "%q", args)
		require.Empty(t, out.String())
		requireShown(t, errs.String())
	}
	var log bytes.Buffer
	slog.New(newLineHandler(&log, slog.LevelInfo, false)).With("with", forged).Warn(forged, "drift", forged, "error", error(usageError{&strconv.NumError{Func: forged, Err: strconv.ErrSyntax}}))
	requireShown(t, log.String())
}

func requireShown(t *testing.T, text string) {
	t.Helper()
	line, ended := strings.CutSuffix(text, "\n")
	require.True(t, ended, "%q", text)
	require.True(t, utf8.ValidString(line))
	require.Equal(t, -1, strings.IndexFunc(line, func(r rune) bool { return !strconv.IsPrint(r) }), "%q", text)
	require.Contains(t, line, "all is well", "it is shown all the same")
}
