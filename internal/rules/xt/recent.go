// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/netns"
)

// RecentEntry is an address in a list of the match recent.
type RecentEntry struct {
	Addr netip.Addr
	Ages []time.Duration // since packets came, within a second or so
}

// ReadRecent reads a list of the match recent in a network namespace, by an open file descriptor; zero: that of the
// calling thread.
func ReadRecent(netNS int, list string) (entries []RecentEntry, err error) {
	if list == "" || list == "." || list == ".." || strings.Contains(list, "/") {
		return nil, fmt.Errorf("a list cannot be called %q", list)
	}
	var text []byte
	read := func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/xt_recent/" + list)
		return err
	}
	if netNS == 0 {
		err = read()
	} else {
		err = netns.Do(netNS, read)
	}
	if err != nil {
		return nil, err
	}
	now, err := readTicks()
	if err != nil {
		return nil, fmt.Errorf("read the kernel's clock: %w", err)
	}
	return parseRecent(string(text), now)
}

// ticks are the kernel's jiffies, which begin 300 seconds before 2^32 (INITIAL_JIFFIES in
// include/linux/jiffies.h) and go with the monotonic clock, which begins a little before.
type ticks struct {
	now    uint64
	length time.Duration // of one
}

func readTicks() (ticks, error) {
	var length, now unix.Timespec
	// The coarse clock is as fine as a tick.
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &length); err != nil {
		return ticks{}, err
	}
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return ticks{}, err
	}
	if length.Nano() <= 0 {
		return ticks{}, fmt.Errorf("a tick of %d ns", length.Nano())
	}
	t := ticks{length: time.Duration(length.Nano())}
	before := uint64(300 * time.Second / t.length)
	t.now = 1<<32 - before + uint64(time.Duration(now.Nano())/t.length)
	return t, nil
}

// since returns how long ago a tick was. Kernels of 32 bits count modulo 2^32.
func (t ticks) since(stamp uint64) time.Duration {
	passed := t.now - stamp
	if passed > t.now {
		passed = 0 // the clocks are not read at once
	}
	return time.Duration(passed%(1<<32)) * t.length
}

// parseRecent reads lines as "src=192.0.2.1 ttl: 64 last_seen: 4294 oldest_pkt: 1 4294, 4295".
func parseRecent(text string, now ticks) ([]RecentEntry, error) {
	var entries []RecentEntry
	for line := range strings.Lines(text) {
		head, tail, ok := strings.Cut(line, "oldest_pkt: ")
		fields := strings.Fields(head)
		if !ok || len(fields) == 0 {
			return nil, fmt.Errorf("malformed line %q", line)
		}
		a, err := netip.ParseAddr(strings.TrimPrefix(fields[0], "src="))
		if err != nil {
			return nil, err
		}
		e := RecentEntry{Addr: a}
		_, stamps, _ := strings.Cut(tail, " ")
		for s := range strings.SplitSeq(stamps, ",") {
			n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 64)
			if err != nil {
				return nil, fmt.Errorf("malformed line %q", line)
			}
			e.Ages = append(e.Ages, now.since(n))
		}
		entries = append(entries, e)
	}
	return entries, nil
}
