// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report has the tables of all parts.
type report struct {
	sections []section
	printed  int // sections
}

type section struct {
	name   string
	tables []*table
}

// begin adds a section for a part.
func (rep *report) begin(part string) { rep.sections = append(rep.sections, section{name: part}) }

// table adds a table to the last section.
func (rep *report) table(title, unit string) *table {
	c := &rep.sections[len(rep.sections)-1]
	r := newTable(title, unit)
	c.tables = append(c.tables, r)
	return r
}

// print writes the sections that were not printed yet.
func (rep *report) print(out io.Writer) {
	for ; rep.printed < len(rep.sections); rep.printed++ {
		for _, r := range rep.sections[rep.printed].tables {
			r.print(out)
		}
	}
}

// titles are the titles of the sections, by part.
func titles() map[string]string {
	return map[string]string{
		"apply": "The kernel's table: many mappings", "publish": "The kernel's table: one mapping",
		"command": "The kernel's table: commands", "wide": "Ranges of ports",
		"read": "The kernel's table: reading", "alloc": "Allocators", "dataplane": "Forwarded packets", "tcp": "Proxied TCP", "udp": "Proxied UDP", "memory": "Memory",
		"footprint": "Footprint", "unpublished": "Ports that no mapping has",
	}
}

// preface is the beginning of docs/benchmarks.md.
const preface = `# Benchmarks

Written by the command below; do not edit. Each table is one question. Its first line is what the ratios are to: no proxy
at all, the kernel's own limit, or, for memory, nftnat. Figures are medians of interleaved rounds, with the lowest and the
highest: the machine is shared, and only ratios within one table mean anything. Rows of one table ran in the same minutes:
those of the proxies in one namespace with the clients on loopback, and a second namespace with the backend behind veth and
a bridge; those of forwarded packets with the client in a third, and all of it on one processor.
[performance.md](performance.md) says how we come to these figures.

`

// write writes everything as Markdown.
func (rep *report) write(path, note string) error {
	var out bytes.Buffer
	out.WriteString(preface)
	fmt.Fprintf(&out, "    cd bench && sudo go run . -write ../docs/benchmarks.md\n\n%s\n", machine())
	if note != "" {
		fmt.Fprintf(&out, "\n%s\n", note)
	}
	for _, c := range rep.sections {
		fmt.Fprintf(&out, "\n## %s\n", titles()[c.name])
		for _, r := range c.tables {
			r.markdown(&out)
		}
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}

// machine describes the machine and the versions of the programs.
func machine() string {
	var u unix.Utsname
	kernel := "unknown"
	if unix.Uname(&u) == nil {
		kernel = unix.ByteSliceToString(u.Release[:])
	}
	model := "unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, after, ok := strings.Cut(string(info), "model name\t: "); ok {
			model, _, _ = strings.Cut(after, "\n")
		}
	}
	load, _, _ := strings.Cut(string(readFile("/proc/loadavg")), "\n")
	lines := []string{
		fmt.Sprintf("Measured on %s with %d processors (%s), Linux %s, %s; load average at the end %s.",
			time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), model, kernel, runtime.Version(), load),
	}
	for _, p := range programs() {
		if path := p.path(); path != "" && p.version != nil {
			out, _ := exec.Command(path, p.version...).CombinedOutput()
			lines = append(lines, p.name+": "+p.pick(string(out)))
		}
	}
	return strings.Join(lines, "\n- ")
}

func readFile(path string) []byte {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return b
}
