// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
)

// Sysctls are the kernel's settings as files. Those below net/ are of the network
// namespace of the calling thread: read and write them within Do.
type Sysctls struct {
	Namespace *Namespace
	// Root is the directory of the files; "" is /proc/sys.
	Root string
}

// Do runs f inside the namespace.
func (s Sysctls) Do(f func() error) error { return s.Namespace.Do(f) }

func (s Sysctls) path(name string) string { return path.Join(cmp.Or(s.Root, "/proc/sys"), name) }

// Read returns a setting without its line end.
func (s Sysctls) Read(name string) (string, error) {
	b, err := os.ReadFile(s.path(name))
	if err != nil {
		return "", fmt.Errorf("read sysctl: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Write changes a setting. One that the kernel does not have is fs.ErrNotExist.
func (s Sysctls) Write(name, value string) error {
	f, err := os.OpenFile(s.path(name), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return fmt.Errorf("write sysctl: %w", err)
	}
	_, err = f.WriteString(value)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("write sysctl: %w", err)
	}
	return nil
}

// Exists reports whether the kernel has a setting.
func (s Sysctls) Exists(name string) bool {
	_, err := os.Stat(s.path(name))
	return err == nil
}

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
