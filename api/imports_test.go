// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A client of the API links no netlink, no engine and no proxy.
func TestImports(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	require.NoError(t, err)
	var foreign []string
	for path := range strings.FieldsSeq(string(out)) {
		if first, _, _ := strings.Cut(path, "/"); strings.Contains(first, ".") {
			foreign = append(foreign, path)
		}
	}
	slices.Sort(foreign)
	const module = "github.com/nftnat/nftnat/"
	require.Equal(t, []string{
		module + "api", module + "explain/report", module + "internal/httpd", module + "internal/order", module + "internal/peercred", module + "internal/printable", module + "internal/unixhttp", module + "nat", "golang.org/x/sys/unix",
	}, foreign)
}
