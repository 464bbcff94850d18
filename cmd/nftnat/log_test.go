// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLoggerQuiet(t *testing.T) {
	var told bytes.Buffer
	g := global{stderr: &told}
	g.logger().Info("said", "why", "it was not asked to be quiet")
	require.Equal(t, "nftnat: said: why=it was not asked to be quiet\n", told.String())
	told.Reset()
	g.quiet = true
	g.logger().Info("not said")
	require.Empty(t, told.String())
}
