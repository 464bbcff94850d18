#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: github.com/goccy/go-yaml 1.19.2, go.yaml.in/yaml/v3 3.0.5
# Expected: parsers of YAML need about the same memory for a flat list of short maps: the document some ten or twenty times
# Happens: goccy/go-yaml keeps more than twice as much as yaml/v3 while its tree lives, and four times as much at its peak: a list of 3 MB takes a quarter of a gigabyte
#
# Seen: 3 MB of one-line maps: 48 bytes kept for each byte of text, against 18; peak memory 257 MB and 1.0 s, against 66 MB and 0.25 s.
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/main.go" <<-'END'
		package main

		import (
			"fmt"
			"runtime"
			"strings"

			"github.com/goccy/go-yaml/parser"
			"go.yaml.in/yaml/v3"
		)

		// live is what a parsed document keeps in memory, in bytes for each byte of text.
		func live(text []byte, parse func() any) float64 {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			tree := parse()
			runtime.GC()
			runtime.ReadMemStats(&after)
			runtime.KeepAlive(tree)
			return float64(after.HeapAlloc-before.HeapAlloc) / float64(len(text))
		}

		func main() {
			text := []byte("m:\n" + strings.Repeat("  - {mapping: \"53->172.17.0.2:53/udp\", name: web}\n", 60000))
			goccy := live(text, func() any {
				f, err := parser.ParseBytes(text, 0)
				if err != nil {
					panic(err)
				}
				return f
			})
			v3 := live(text, func() any {
				n := new(yaml.Node)
				if err := yaml.Unmarshal(text, n); err != nil {
					panic(err)
				}
				return n
			})
			fmt.Printf("bytes kept for each byte of text: goccy %.0f, yaml/v3 %.0f, more than twice as many: %t\n", goccy, v3, goccy > 2*v3)
		}
	END
	module github.com/goccy/go-yaml@v1.19.2 go.yaml.in/yaml/v3@v3.0.5
}

show() { expect 'a list of 60,000 maps' 'more than twice as many: true' "$("$DIR/main")"; }

run
