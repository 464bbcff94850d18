// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package process finds the process that has a socket open, by the links of /proc.
package process
