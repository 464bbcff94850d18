// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// ErrInvalid matches every error about bad input: nothing was contacted, and nothing has
// changed.
var ErrInvalid = errors.New("invalid")

// Kinds of input in an InvalidError.
const (
	whatProto    = "protocol"
	whatFrontend = "frontend"
	whatBackend  = "backend"
	WhatMapping  = "mapping"
)

// InvalidError says which input was refused and why.
type InvalidError struct {
	What   string // the kind of input: "protocol", "frontend", "backend", "mapping", or one of another package
	Input  string // the input as it was given, unquoted
	Reason string // why it was refused; lower case, no full stop
}

// quotedInput bounds how much of a refused input an error repeats, in bytes.
// The longest sensible input, a mapping of two IPv6 ranges, has 105.
const quotedInput = 128

// Error returns one line, whatever the input holds: `invalid frontend
// "8080-8000": the range ends before it begins`.
func (e *InvalidError) Error() string {
	adjective := "invalid"
	if e.What == whatProto { // sctp is not malformed, but not supported
		adjective = "unknown"
	}
	input, more := e.Input, ""
	if len(input) > quotedInput {
		end := quotedInput
		for end > quotedInput-utf8.UTFMax && !utf8.RuneStart(input[end]) {
			end--
		}
		input, more = input[:end], "..."
	}
	return adjective + " " + e.What + " " + strconv.Quote(input) + more + ": " + e.Reason
}

// Unwrap returns [ErrInvalid].
func (e *InvalidError) Unwrap() error { return ErrInvalid }

// OverlapError says that two mappings given together claim the same frontend.
// It is bad input, not a conflict with something already published.
type OverlapError struct {
	A, B Mapping // the two, in the order they were given
	I, J int     // their positions among the given mappings, from 0; I < J
}

// Error names both mappings, the protocol and the lowest port both claim.
func (e *OverlapError) Error() string {
	return fmt.Sprintf("mappings %s and %s overlap: both claim %s port %d",
		e.A, e.B, e.A.Proto, max(e.A.Frontend.Port(), e.B.Frontend.Port()))
}

// Unwrap returns [ErrInvalid].
func (e *OverlapError) Unwrap() error { return ErrInvalid }
