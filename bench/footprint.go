// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/nftnat/nftnat/internal/lab"
)

// idleMappings is the number of mappings of a daemon whose memory is measured.
const idleMappings = 100

// helloHTTP is a program that links net/http and does not use it: nftnat cannot be smaller.
const helloHTTP = "package main\n\nimport (\n\t\"fmt\"\n\t\"net/http\"\n\t\"os\"\n)\n\n" +
	"func main() {\n\tif len(os.Args) > 2 {\n\t\t_ = new(http.Server).ListenAndServe()\n\t\t_, _ = new(http.Client).Get(os.Args[1])\n\t}\n" +
	"\tfmt.Println(\"hello\")\n}\n"

// footprint has the programs that are compared: those that do nothing, nftnat, and another
// build of it if one was given.
type footprint struct {
	dir        string
	idle, ours []variant
}

type variant struct{ name, path string }

// benchFootprint measures what nftnat costs: on disk, for each command, at the start of the
// daemon, and while the daemon is idle.
func benchFootprint(rep *report, s settings) error {
	dir, err := os.MkdirTemp("", "nftnat-bench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	f := footprint{dir: dir}
	if err := f.build(s.also); err != nil {
		return err
	}
	if err := f.size(rep); err != nil {
		return err
	}
	if err := f.version(rep, s.rounds*s.singles/10+1); err != nil {
		return err
	}
	return f.daemons(rep, s.rounds)
}

func (f *footprint) build(also string) error {
	hello, err := buildPackage(f.dir, "bench/hello")
	if err != nil {
		return err
	}
	source, withHTTP := filepath.Join(f.dir, "hello-http.go"), filepath.Join(f.dir, "hello-http")
	if err := os.WriteFile(source, []byte(helloHTTP), 0o600); err != nil {
		return err
	}
	if err := goBuild(withHTTP, source, stripped...); err != nil {
		return err
	}
	f.idle = []variant{{"a program that does nothing", hello}, {"the same with net/http in it", withHTTP}}
	program, err := build(f.dir)
	if err != nil {
		return err
	}
	f.ours = []variant{{"nftnat", program}}
	if also != "" {
		f.ours = append(f.ours, variant{otherBuild, also})
	}
	return nil
}

// size compares the sizes of the files, and lists the contents of nftnat.
func (f *footprint) size(rep *report) error {
	r := rep.table("Static binary, stripped", "bytes")
	r.note("a test asserts at most 16 MiB, 16,777,216 bytes")
	for _, v := range slices.Concat(f.idle, f.ours) {
		info, err := os.Stat(v.path)
		if err != nil {
			return err
		}
		r.add(v.name, float64(info.Size()))
	}
	program := filepath.Join(f.dir, "nftnat-with-symbols")
	if err := goBuild(program, module+"cmd/nftnat"); err != nil {
		return err
	}
	inside := rep.table("What is in it: code and data by package", "bytes")
	inside.note("with symbols, and all functions inlined")
	return contents(inside, program)
}

// version times a command that does nothing beside programs that do nothing.
func (f *footprint) version(rep *report, runs int) error {
	r := rep.table("nftnat version, whole process", seconds)
	r.note("it is to take at most 1.5 times what a program takes that does nothing")
	for range runs {
		for _, v := range slices.Concat(f.idle, f.ours) {
			if err := timed(r, v.name, exec.Command(v.path, "version").Run); err != nil {
				return err
			}
		}
	}
	return nil
}

// daemons times the start of daemons that adopt nothing, few and many mappings, and reads the
// memory of idle ones.
func (f *footprint) daemons(rep *report, rounds int) error {
	start := rep.table("The daemon's start, until it is ready", seconds)
	start.note("it is to take at most 30 ms")
	memory := rep.table(fmt.Sprintf("An idle daemon with %d mappings, memory", idleMappings), "KiB")
	memory.note("the daemon is to have at most 16 MiB, 16,384 KiB, resident (RSS)")
	for range rounds {
		for _, v := range f.ours {
			for _, count := range []int{0, idleMappings, 10_000} {
				err := inNamespace(func(ns *lab.NS) error {
					d, err := f.adopting(ns, v, count, start)
					if err != nil {
						return err
					}
					defer d.end()
					if count == idleMappings {
						return d.idle(v.name, memory)
					}
					return nil
				})
				if err != nil {
					return fmt.Errorf("%s: %w", v.name, err)
				}
			}
		}
	}
	return nil
}

// adopting starts a daemon that adopts the table of an earlier one.
func (f *footprint) adopting(ns *lab.NS, v variant, count int, start *table) (*daemon, error) {
	socket := filepath.Join(f.dir, "nftnat.sock")
	if count != 0 {
		ports := fmt.Sprintf("%d-%d", firstPort, firstPort+count-1)
		err := command(ns, v.path, "add", "--direct", "--quiet", "tcp", ports, fmt.Sprintf("%s:%s", backend(), ports))
		if err != nil {
			return nil, err
		}
		before, err := startDaemon(ns, v.path, socket)
		if err != nil {
			return nil, err
		}
		before.end()
	}
	begin := time.Now()
	d, err := startDaemon(ns, v.path, socket)
	if err == nil {
		start.add(fmt.Sprintf("%s, %d mappings of a daemon before it", v.name, count), time.Since(begin).Seconds())
	}
	return d, err
}
