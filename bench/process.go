// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nftnat/nftnat/internal/lab"
)

// tools are the programs that are built for the measurements of whole processes.
type tools struct {
	dir                 string // for other files
	nftnat, hello, peak string
}

// withTools builds the tools, calls f, and removes them.
func withTools(f func(*tools) error) error {
	dir, err := os.MkdirTemp("", "nftnat-bench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	t := tools{dir: dir}
	if t.nftnat, err = build(dir); err != nil {
		return err
	}
	if t.hello, err = buildPackage(dir, "bench/hello"); err != nil {
		return err
	}
	if t.peak, err = buildPackage(dir, "bench/peak"); err != nil {
		return err
	}
	return f(&t)
}

// build builds nftnat as it is released.
func build(dir string) (string, error) {
	root, err := root()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "nftnat")
	out, err := exec.Command("make", "-C", root, "program", "PROGRAM="+bin).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build nftnat: %w: %s", err, out)
	}
	return bin, nil
}

// root is the directory of nftnat's sources.
func root() (string, error) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", strings.TrimSuffix(module, "/")).Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return strings.TrimSpace(string(dir)), nil
}

func buildPackage(dir, path string) (string, error) {
	bin := filepath.Join(dir, filepath.Base(path))
	return bin, goBuild(bin, module+path, stripped...)
}

// process measures a program from start to end inside the namespace: the time that it takes
// and its peak memory. A nil table is skipped.
func (t *tools) process(ns *lab.NS, took, memory *table, variant, name string, args ...string) error {
	return t.measured(ns, took, memory, variant, exec.Command(name, args...))
}

// measured is process for a prepared command.
func (t *tools) measured(ns *lab.NS, took, memory *table, variant string, command *exec.Cmd) error {
	if command.Err != nil {
		return command.Err
	}
	var out, errs bytes.Buffer
	err := ns.Do(func() error {
		cmd := exec.Command(t.peak, append([]string{command.Path}, command.Args[1:]...)...)
		cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = command.Env, command.Stdin, &out, &errs
		return cmd.Run()
	})
	if err != nil {
		return fmt.Errorf("%s: %s: %w: %s", variant, command.Path, err, bytes.TrimSpace(errs.Bytes()))
	}
	var nanoseconds, kibibytes float64
	if _, err := fmt.Sscan(out.String(), &nanoseconds, &kibibytes); err != nil {
		return fmt.Errorf("%s: %w", variant, err)
	}
	if took != nil {
		took.add(variant, nanoseconds/float64(time.Second))
	}
	if memory != nil {
		memory.add(variant, kibibytes)
	}
	return nil
}
