// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// CountTCX counts the programs of tcx that see what comes in by an interface of the calling thread's network
// namespace. They are in no list of filters of tc. The error is ErrUnsupported of package errors before Linux 6.6.
func CountTCX(index int) (int, error) {
	result, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return 0, fmt.Errorf("list programs of interface %d: %w", index, err)
	}
	return len(result.Programs), nil
}
