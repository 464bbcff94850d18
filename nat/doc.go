// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package nat holds the values of nftnat: what is published, networks, endpoints, and the
// errors that say what is wrong with them. It parses, prints and validates them, and uses
// the standard library alone: a client of the HTTP API needs no netlink.
//
//	m, err := nat.ParseMappingText("8080->172.17.0.2:80")
//	...
//	fmt.Println(m.Proto, m.FrontendText(), m.BackendText()) // tcp 8080 172.17.0.2:80
//
// A [Mapping] is comparable and can be a map key. Parsing checks the form only; Validate
// checks what can be known without asking the kernel. Errors about bad input are
// [*InvalidError], [*OverlapError] or [*PortSpecError], each of which is [ErrInvalid].
//
// # Concurrency
//
// All functions and methods may be called at the same time; no value changes by being read.
package nat
