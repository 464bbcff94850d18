// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"runtime/debug"
)

// daemonGarbage is how much garbage a daemon's heap may have before it is collected, in
// per cent of what is in use. Go's default is 100, and 4 MiB at least; the least goes
// with it. A daemon of some hundred mappings has 1 MiB in use: the garbage of a request
// now and then would be a quarter of its memory. What the proxies carry makes none.
const daemonGarbage = 50

// keepSmall has the memory of a daemon collected sooner, unless its user has decided.
func keepSmall() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(daemonGarbage)
	}
}
