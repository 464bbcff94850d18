// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package boottest

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// MainPid returns the main process of a service as the test's PID namespace numbers
// it; 0: it has none.
func (m *Machine) MainPid(unit string) int {
	m.tb.Helper()
	inside := m.Property(unit, "MainPID")
	if inside == "0" {
		return 0
	}
	space := pidNamespace(m.Pid)
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		m.tb.Fatal(err)
	}
	for _, dir := range processes {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil && pidNamespace(pid) == space && innermostPid(dir) == inside {
			return pid
		}
	}
	return 0 // it has ended since
}

// pidNamespace names the PID namespace of a process; empty: it has ended.
func pidNamespace(pid int) string {
	name, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "ns/pid"))
	if err != nil {
		return ""
	}
	return name
}

// innermostPid is a process's number in its own PID namespace.
func innermostPid(dir string) string {
	text, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return ""
	}
	_, numbers, _ := strings.Cut(string(text), "\nNSpid:")
	line, _, _ := strings.Cut(numbers, "\n")
	all := strings.Fields(line)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1]
}
