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

// book is the reports of all parts.
type book struct {
	chapters []chapter
	printed  int // chapters
}

type chapter struct {
	name    string
	reports []*report
}

// begin opens the chapter of a part.
func (b *book) begin(part string) { b.chapters = append(b.chapters, chapter{name: part}) }

// report opens a report in the last chapter.
func (b *book) report(title, unit string) *report {
	c := &b.chapters[len(b.chapters)-1]
	r := newReport(title, unit)
	c.reports = append(c.reports, r)
	return r
}

// print writes the chapters that were not printed yet.
func (b *book) print(out io.Writer) {
	for ; b.printed < len(b.chapters); b.printed++ {
		for _, r := range b.chapters[b.printed].reports {
			r.print(out)
		}
	}
}

// titles are of the chapters, by part.
func titles() map[string]string {
	return map[string]string{
		"apply": "The kernel's table: many mappings", "publish": "The kernel's table: one mapping",
		"command": "The kernel's table: commands",
		"read":    "The kernel's table: reading", "alloc": "Allocators", "plane": "Forwarded packets", "tcp": "Proxied TCP", "udp": "Proxied UDP", "memory": "Memory",
		"footprint": "Footprint",
	}
}

// preface says how to read docs/benchmarks.md.
const preface = `# Benchmarks

Written by the command below; do not edit. Each table is one question. Its first line is what the ratios are to: no proxy
at all, the kernel's own limit, or, for memory, nftnat. Figures are medians of interleaved rounds, with the lowest and the
highest: the machine is shared, and only ratios within one table mean anything. Rows of one table ran in the same minutes:
those of the proxies in one namespace with the clients on loopback, and a second namespace with the backend behind veth and
a bridge; those of forwarded packets with the client in a third, and all of it on one processor.
[performance.md](performance.md) says how we come to these figures.

`

// write writes everything as Markdown.
func (b *book) write(path, note string) error {
	var out bytes.Buffer
	out.WriteString(preface)
	fmt.Fprintf(&out, "    sudo go run ./bench -write docs/benchmarks.md\n\n%s\n", machine())
	if note != "" {
		fmt.Fprintf(&out, "\n%s\n", note)
	}
	for _, c := range b.chapters {
		fmt.Fprintf(&out, "\n## %s\n", titles()[c.name])
		for _, r := range c.reports {
			r.markdown(&out)
		}
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}

// machine is what was measured on, and which versions of what.
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
