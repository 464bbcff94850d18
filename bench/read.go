// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
)

// What is read back, and by what.
const (
	rawDump    = "raw netlink dump into a Go map (the limit)"
	openEngine = "engine.Open (adopt)"
	listMap    = "nft -j list map, whole process"
)

// benchRead reads a full table back.
func benchRead(rep *report, s settings) error {
	took := rep.table(fmt.Sprintf("Reading %d mappings back", s.mappings), seconds)
	memory := rep.table(fmt.Sprintf("Reading %d mappings back, memory of the process at most", s.mappings), "KiB")
	return withTools(func(t *tools) error {
		filled := func(f func(*lab.NS) error) func(*lab.NS) error {
			return func(ns *lab.NS) error {
				if err := withEngine(ns, func(e *engine.Engine) error { return applied(e, s.mappings) }); err != nil {
					return err
				}
				runtime.GC() // of what was applied
				return f(ns)
			}
		}
		variants := []func(*lab.NS) error{
			filled(func(ns *lab.NS) error { return readRaw(ns, took, s.mappings) }),
			filled(func(ns *lab.NS) error { return readEngine(ns, took) }),
			filled(func(ns *lab.NS) error {
				for _, what := range []string{"a process that only begins", rawDump, openEngine} {
					if err := readingChild(ns, memory, what, s.mappings); err != nil {
						return err
					}
				}
				return nil
			}),
		}
		if installed(took, "nft") {
			variants = append(variants, filled(func(ns *lab.NS) error {
				return t.process(ns, took, memory, listMap, "nft", "-j", "list", "map", "inet", "nftnat", "tcp4")
			}))
		}
		return rounds(s.rounds, variants)
	})
}

// readRaw and readEngine read everything; a nil table is skipped.
func readRaw(ns *lab.NS, took *table, count int) error {
	return withRaw(ns, func(raw *rawSocket) error {
		return timed(took, rawDump, func() error {
			n, err := raw.dump("nftnat", "tcp4")
			if err == nil && n != count {
				err = fmt.Errorf("%d elements of %d", n, count)
			}
			return err
		})
	})
}

func readEngine(ns *lab.NS, took *table) error {
	var e *engine.Engine
	err := timed(took, openEngine, func() (err error) {
		e, err = engine.Open(context.Background(), engine.Options{NetNS: ns.Path(), NoProxies: true})
		return err
	})
	if err != nil {
		return err
	}
	return e.Close()
}

// readingChild reads in a process of its own, and adds the peak memory of that.
func readingChild(ns *lab.NS, memory *table, what string, count int) error {
	c, err := startChild(ns, anyProcessor, "read", "READ="+what, "COUNT="+strconv.Itoa(count))
	if err != nil {
		return err
	}
	line, err := c.line()
	if err = errors.Join(err, c.end()); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	size, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
	memory.add(what, size)
	return err
}

// childRead is the process of readingChild, inside the namespace.
func childRead() error {
	count, err := strconv.Atoi(os.Getenv("COUNT"))
	if err != nil {
		return err
	}
	switch os.Getenv("READ") {
	case rawDump:
		s, err := newRawSocket()
		if err != nil {
			return err
		}
		defer s.close()
		n, err := s.dump("nftnat", "tcp4")
		if err != nil {
			return err
		}
		if n != count {
			return fmt.Errorf("%d elements of %d", n, count)
		}
	case openEngine:
		e, err := engine.Open(context.Background(), engine.Options{NoProxies: true})
		if err != nil {
			return err
		}
		defer func() { _ = e.Close() }() // of no consequence to what was read
	}
	size, err := processStatus("self", "VmHWM")
	if err != nil {
		return err
	}
	_, err = fmt.Println(size)
	return err
}

// processStatus reads a line of a process's status, in KiB (proc_pid_status(5)).
func processStatus(pid, line string) (float64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(text), "\n"+line+":")
	fields := strings.Fields(rest)
	if !ok || len(fields) == 0 {
		return 0, fmt.Errorf("status of process %s has no %s", pid, line)
	}
	return strconv.ParseFloat(fields[0], 64)
}
