// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"errors"
	"io/fs"
	"strconv"
	"strings"
)

const reservedPorts = "net/ipv4/ip_local_reserved_ports"

// PortRange is a range of ports, both ends included.
type PortRange struct{ First, Last uint16 }

// ReservedPorts reads the ports that the administrator has excluded from automatic
// choice (Documentation/networking/ip-sysctl.rst, ip_local_reserved_ports). They hold
// for IPv6 too.
func (s Sysctls) ReservedPorts() ([]PortRange, error) {
	var text string
	err := s.Do(func() (err error) {
		text, err = s.Read(reservedPorts)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return parseReservedPorts(text), err
}

// parseReservedPorts reads "8080,9148-9150". The kernel writes no other form.
func parseReservedPorts(text string) (ranges []PortRange) {
	for field := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(field, "-")
		if !isRange {
			last = first
		}
		a, errA := strconv.ParseUint(first, 10, 16)
		b, errB := strconv.ParseUint(last, 10, 16)
		if errA == nil && errB == nil && a <= b && b > 0 {
			ranges = append(ranges, PortRange{uint16(max(a, 1)), uint16(b)})
		}
	}
	return ranges
}
