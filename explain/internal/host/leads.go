// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// LeadsLocalhost reports whether the process has programs of eBPF at connect(2) of IPv4, which lead sockets of this host
// straight to backends. A pid of zero: some process of that name in the namespace. What may not be read counts as none.
func (h *Host) LeadsLocalhost(pid int, name string) bool {
	if h.leads == nil {
		h.leads = map[int]bool{}
	}
	leads, known := h.leads[pid]
	if known {
		return leads
	}
	if pid != 0 {
		leads = hasConnectLink(pid)
	} else {
		leads = h.anyLeads(name)
	}
	h.leads[pid] = leads
	return leads
}

func (h *Host) anyLeads(name string) bool {
	own, err := os.Stat(fmt.Sprintf("/proc/self/fd/%d", h.netNS))
	if h.netNS == 0 {
		own, err = os.Stat("/proc/thread-self/ns/net")
	}
	if err != nil {
		return false
	}
	comms, _ := filepath.Glob("/proc/[0-9]*/comm") // the only error: a bad pattern
	for _, path := range comms {
		b, err := os.ReadFile(path)
		if err != nil || strings.TrimSpace(string(b)) != name {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(path, "/proc/%d/comm", &pid); err != nil {
			continue
		}
		ns, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err == nil && os.SameFile(own, ns) && hasConnectLink(pid) {
			return true
		}
	}
	return false
}

// hasConnectLink looks for a link of a control group at connect(2) among the open files of a process
// (bpf_cgroup_link_show_fdinfo in kernel/bpf/cgroup.c).
func hasConnectLink(pid int) bool {
	dir := fmt.Sprintf("/proc/%d/", pid)
	files, err := os.ReadDir(dir + "fd")
	if err != nil {
		return false
	}
	for _, f := range files {
		to, err := os.Readlink(dir + "fd/" + f.Name())
		if err != nil || !strings.HasPrefix(to, "anon_inode:") || !strings.Contains(to, "bpf") || !strings.Contains(to, "link") {
			continue
		}
		info, err := os.ReadFile(dir + "fdinfo/" + f.Name())
		if err == nil && isConnectLink(string(info)) {
			return true
		}
	}
	return false
}

func isConnectLink(info string) bool {
	const connect4 = "10" // BPF_CGROUP_INET4_CONNECT
	found := map[string]string{}
	for line := range strings.Lines(info) {
		key, value, _ := strings.Cut(line, ":")
		found[key] = strings.TrimSpace(value)
	}
	return found["link_type"] == "cgroup" && found["attach_type"] == connect4
}
