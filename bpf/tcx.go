// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf/internal/sys"
)

// CountTCX counts the programs of tcx that see what comes in by an interface of the calling thread's network
// namespace. They are in no list of filters of tc. The error is ErrUnsupported of package errors before Linux 6.6.
func CountTCX(index int) (int, error) {
	n, err := sys.Count(index, unix.BPF_TCX_INGRESS)
	if errors.Is(err, unix.EINVAL) {
		err = errors.ErrUnsupported
	}
	if err != nil {
		return 0, fmt.Errorf("list programs of interface %d: %w", index, err)
	}
	return n, nil
}
