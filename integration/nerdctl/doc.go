// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package nerdctl has the version of nerdctl that TestNerdctl builds.
package nerdctl
