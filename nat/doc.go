// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package nat has the values of nftnat: mappings, networks, endpoints, and errors about them.
// It parses, prints and validates them. It imports the standard library only, so that a
// client of the HTTP API needs no netlink.
//
//	m, err := nat.ParseMappingText("8080->172.17.0.2:80")
//	...
//	fmt.Println(m.Proto, m.FrontendText(), m.BackendText()) // tcp 8080 172.17.0.2:80
//
// A [Mapping] is comparable and can be a map key. Parsing checks the form only; Validate
// checks what can be known without the kernel. Errors about bad input are
// [*InvalidError], [*OverlapError] or [*PortSpecError], each of which is [ErrInvalid].
//
// # Concurrency
//
// All functions and methods may be called at the same time. Reading a value does not change
// it.
package nat
