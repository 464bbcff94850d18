// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Command hello is the least that a Go program can do: what its start takes, no command
// line in Go does without.
package main

import "os"

func main() { _, _ = os.Stdout.WriteString("hello, world\n") }
