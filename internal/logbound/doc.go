// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package logbound keeps others from filling a log: of lines that anybody on a network can cause, one a second
// is written, and then how many were not. A log of level debug has all of them.
package logbound
