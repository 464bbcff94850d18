// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"io/fs"
	"strconv"
	"strings"
)

const reservedPorts = "net/ipv4/ip_local_reserved_ports"

// portRange is a range of ports, both ends included.
type portRange struct{ first, last uint16 }

// readReservedPorts reads the ports that the administrator has kept from automatic
// choice, which the engine's is (Documentation/networking/ip-sysctl.rst,
// ip_local_reserved_ports). They hold for IPv6 too.
func readReservedPorts(s sysctls) (ranges []portRange, err error) {
	var text string
	err = s.do(func() (err error) {
		text, err = s.read(reservedPorts)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return parseReservedPorts(text), err
}

// parseReservedPorts reads "8080,9148-9150". The kernel writes nothing else.
func parseReservedPorts(text string) (ranges []portRange) {
	for field := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(field, "-")
		if !isRange {
			last = first
		}
		a, errA := strconv.ParseUint(first, 10, 16)
		b, errB := strconv.ParseUint(last, 10, 16)
		if errA == nil && errB == nil && a <= b && b > 0 {
			ranges = append(ranges, portRange{uint16(max(a, 1)), uint16(b)})
		}
	}
	return ranges
}
