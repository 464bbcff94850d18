// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package hooks keeps the maps of the programs of package bpf equal to what is published.
package hooks
