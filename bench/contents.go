// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"debug/elf"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// module is the prefix of the paths of packages here.
const module = "github.com/nftnat/nftnat/"

// stripped are the arguments for a program without symbols.
var stripped = []string{"-ldflags", "-s -w", "-tags", "nethttpomithttp2,purego"}

// goBuild builds a static program; arguments are for go build.
func goBuild(program, source string, args ...string) error {
	args = slices.Concat([]string{"build", "-trimpath", "-o", program}, args, []string{source})
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", source, err, out)
	}
	return nil
}

// biggest is the number of a binary's packages that are listed one by one.
const biggest = 20

// contents adds the sizes of a program's symbols by package. Names of types and functions,
// and the table of lines, have no symbols.
func contents(r *table, program string) error {
	f, err := elf.Open(program)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	symbols, err := f.Symbols()
	if err != nil {
		return fmt.Errorf("read symbols of %s: %w", program, err)
	}
	sizes, total := map[string]float64{}, 0.0
	for _, s := range symbols {
		// What is zero at the start is not in the file.
		if int(s.Section) >= len(f.Sections) || f.Sections[s.Section].Type == elf.SHT_NOBITS {
			continue
		}
		sizes[packageOf(s.Name)] += float64(s.Size)
		total += float64(s.Size)
	}
	r.add("all symbols", total)
	order := slices.SortedFunc(maps.Keys(sizes), func(a, b string) int { return cmp.Compare(sizes[b], sizes[a]) })
	for _, name := range order[:min(biggest, len(order))] {
		r.add(name, sizes[name])
	}
	return nil
}

// packageOf is the package that a symbol is of: what is before the first point after the
// last slash. Of a generic function's it is that of the function.
func packageOf(symbol string) string {
	for _, prefix := range []string{"type:.eq.", "type:", "go:itab.", "*"} {
		symbol = strings.TrimPrefix(symbol, prefix)
	}
	symbol, _, _ = strings.Cut(symbol, "[")
	path, _, _ := strings.Cut(symbol, "(")
	slash := strings.LastIndex(path, "/") + 1
	point := strings.Index(symbol[slash:], ".")
	if point < 1 || strings.HasPrefix(symbol, "go:") {
		return "the toolchain"
	}
	return symbol[:slash+point]
}
