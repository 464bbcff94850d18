// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package web serves a page about what a daemon publishes, over HTTP on TCP: the mappings with
// their owners, flows and ends, what is wrong and why, the leases of a gateway, and what it has
// refused. [Run] is a client of the daemon's socket and keeps no file.
//
// The page is rendered here and can be read without script; with it, it follows the daemon by
// GET /v1/events. /status.json has the same for programs. Changes need a token in the header
// Authorization, and without [Options].Token there are none.
//
// However many clients there are, the daemon is asked once for all of them, and not more than a
// fifth of the time.
package web
