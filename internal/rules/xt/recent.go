// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/nftnat/nftnat/internal/netns"
)

// RecentEntry is an address in a list of the match recent.
type RecentEntry struct {
	Addr  netip.Addr
	Stamp []uint64 // when packets came, in jiffies
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
	return parseRecent(string(text))
}

// parseRecent reads lines as "src=192.0.2.1 ttl: 64 last_seen: 4294 oldest_pkt: 1 4294, 4295".
func parseRecent(text string) ([]RecentEntry, error) {
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
			e.Stamp = append(e.Stamp, n)
		}
		entries = append(entries, e)
	}
	return entries, nil
}
