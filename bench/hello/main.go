// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Command hello is what a program in Go costs that does nothing but say so.
package main

import "fmt"

func main() { fmt.Println("hello, world") }
