// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// SessionOwner is the process that a session is for. Its text is the name of the session's
// mappings, by which a server knows them that has found them in the kernel, and that a process no
// longer runs.
type SessionOwner struct {
	// Boot is the begin of the boot's id, Namespace the inode of the PID namespace, PID the
	// process in it, and Start when that started, in clock ticks since the boot.
	Boot      string
	Namespace uint64
	PID       int
	Start     uint64
}

// sessionPrefix is what the names begin with.
const sessionPrefix = "docker:"

// ThisSessionOwner returns that of this process.
func ThisSessionOwner() (SessionOwner, error) {
	o := SessionOwner{PID: os.Getpid()}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return SessionOwner{}, err
	}
	o.Boot = string(boot[:min(len(boot), 8)])
	link, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return SessionOwner{}, err
	}
	inode := strings.TrimSuffix(strings.TrimPrefix(link, "pid:["), "]")
	if o.Namespace, err = strconv.ParseUint(inode, 10, 64); err != nil {
		return SessionOwner{}, err
	}
	// The name of the program, in parentheses, may have any characters.
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return SessionOwner{}, err
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const start = 22 - 3 // field 22 of proc_pid_stat(5), where the first one left is field 3
	if len(fields) <= start {
		return SessionOwner{}, fmt.Errorf("read /proc/self/stat: it has %d fields", len(fields))
	}
	o.Start, err = strconv.ParseUint(fields[start], 10, 64)
	return o, err
}

// String is the name of mappings: "docker:0123abcd-4026531836-1234-567890".
func (o SessionOwner) String() string {
	return fmt.Sprintf("%s%s-%d-%d-%d", sessionPrefix, o.Boot, o.Namespace, o.PID, o.Start)
}

// ParseSessionOwner reads what String returns. False: the name is of no session.
func ParseSessionOwner(name string) (o SessionOwner, ok bool) {
	rest, ok := strings.CutPrefix(name, sessionPrefix)
	parts := strings.Split(rest, "-")
	if !ok || len(parts) != 4 || len(parts[0]) != 8 {
		return SessionOwner{}, false
	}
	var errs [3]error
	o.Boot = parts[0]
	o.Namespace, errs[0] = strconv.ParseUint(parts[1], 10, 64)
	o.PID, errs[1] = strconv.Atoi(parts[2])
	o.Start, errs[2] = strconv.ParseUint(parts[3], 10, 64)
	return o, errs == [3]error{} && o.String() == name
}

// validateSession refuses mappings that no session can have.
func validateSession(ms []nat.Mapping) error {
	for i := range ms {
		if _, ok := ParseSessionOwner(ms[i].Name); !ok || ms[i].Name != ms[0].Name {
			return &nat.InvalidError{What: "name", Input: ms[i].Name, Reason: "mappings of a session have the name of its process"}
		}
	}
	if len(ms) == 0 {
		return &nat.InvalidError{What: "session", Reason: "it has no mappings"}
	}
	return nil
}
