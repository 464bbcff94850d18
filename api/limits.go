// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import "time"

// limits are what a server allows its clients. Tests have smaller ones.
type limits struct {
	conns   int // at once; further clients wait in the kernel's queue
	streams int // of events at once, so that half of the connections stay for others
	applies int // bodies of PUT being read or applied at once, for the memory they take

	header  int // bytes
	body    int64
	apply   int64 // bytes of a body of PUT: 60,000 mappings are some 8 MiB of JSON
	discard int64 // bytes of a refused body that are read and thrown away

	headerTime time.Duration // to send a header, from its first byte or from the connection
	bodyTime   time.Duration // to send a body, from the end of its header
	writeTime  time.Duration // to read an answer
	lastTime   time.Duration // to read the event that is being written at shutdown
	idleTime   time.Duration // between two requests
	drainTime  time.Duration // for what is under way at shutdown
	departure  time.Duration // to send a request, when another process is to serve
	leaveTime  time.Duration // for what is under way then: no client waits longer for an answer
	healthTime time.Duration // of the engine to answer, before it counts as not healthy
}

func defaultLimits() limits {
	return limits{
		conns: 256, streams: 128, applies: 4,
		header: 8 << 10, body: 1 << 20, apply: 16 << 20, discard: 64 << 20,
		headerTime: 5 * time.Second, bodyTime: 10 * time.Second, writeTime: 30 * time.Second,
		lastTime: time.Second, idleTime: time.Minute, drainTime: 5 * time.Second,
		departure: time.Second, leaveTime: callTimeout, healthTime: 5 * time.Second,
	}
}
