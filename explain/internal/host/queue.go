// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// Queue reports whether a program takes packets from a queue of netfilter (NFQUEUE). Without one
// the kernel drops them, unless the rule says bypass.
func (h *Host) Queue(number uint16) (bool, error) {
	if h.queues == nil {
		var b []byte
		err := h.do(func() (err error) {
			b, err = os.ReadFile("/proc/thread-self/net/netfilter/nfnetlink_queue")
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // without the module there are none
			return false, h.note(fmt.Errorf("read queues of netfilter: %w", err))
		}
		if h.queues, err = parseQueues(string(b)); err != nil {
			return false, err
		}
	}
	return h.queues[number], nil
}

// parseQueues reads the first column: the number.
func parseQueues(text string) (map[uint16]bool, error) {
	queues := map[uint16]bool{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		n, err := strconv.ParseUint(fields[0], 10, 16)
		if err != nil {
			return nil, fmt.Errorf("read queues of netfilter: %w", err)
		}
		queues[uint16(n)] = true
	}
	return queues, nil
}
