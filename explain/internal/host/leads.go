// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// leads are the processes whose programs of eBPF lead sockets and packets of the host; nil: none's do.
type leads struct {
	localhost *Process // has one at connect(2) of IPv4
	ports     *Process // has one that finds sockets for packets (sk_lookup)
}

// LeadsLocalhost reports whether the process has programs of eBPF at connect(2) of IPv4, which lead sockets of this host
// straight to backends. A pid of zero: some process of that name in the namespace. What may not be read counts as none.
func (h *Host) LeadsLocalhost(pid int, name string) bool {
	return h.leadsOf(pid, name).localhost != nil
}

// LeadsPorts returns the process with a program of eBPF that leads packets to many ports to one socket of it; nil: there
// is none. The pid and the name are as for LeadsLocalhost.
func (h *Host) LeadsPorts(pid int, name string) *Process { return h.leadsOf(pid, name).ports }

func (h *Host) leadsOf(pid int, name string) leads {
	found, known := h.leads[pid]
	if known {
		return found
	}
	if pid != 0 {
		found.find(&Process{PID: pid, Command: name})
	} else {
		h.findLeads(name, &found)
	}
	if h.leads == nil {
		h.leads = map[int]leads{}
	}
	h.leads[pid] = found
	return found
}

func (h *Host) findLeads(name string, found *leads) {
	own, err := os.Stat(fmt.Sprintf("/proc/self/fd/%d", h.netNS))
	if h.netNS == 0 {
		own, err = os.Stat("/proc/thread-self/ns/net")
	}
	if err != nil {
		return
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
		if err == nil && os.SameFile(own, ns) {
			found.find(&Process{PID: pid, Command: name})
		}
	}
}

// find looks for links among the open files of a process (bpf_cgroup_link_show_fdinfo in kernel/bpf/cgroup.c,
// bpf_netns_link_show_fdinfo in kernel/bpf/net_namespace.c).
func (l *leads) find(p *Process) {
	dir := fmt.Sprintf("/proc/%d/", p.PID)
	files, err := os.ReadDir(dir + "fd")
	if err != nil {
		return
	}
	for _, f := range files {
		to, err := os.Readlink(dir + "fd/" + f.Name())
		if err != nil || !strings.HasPrefix(to, "anon_inode:") || !strings.Contains(to, "bpf") || !strings.Contains(to, "link") {
			continue
		}
		info, err := os.ReadFile(dir + "fdinfo/" + f.Name())
		if err != nil {
			continue
		}
		switch linkOf(string(info)) {
		case "cgroup 10": // BPF_CGROUP_INET4_CONNECT
			l.localhost = p
		case "netns 36": // BPF_SK_LOOKUP
			l.ports = p
		}
	}
}

// linkOf returns the type of a link, and where it is attached.
func linkOf(info string) string {
	found := map[string]string{}
	for line := range strings.Lines(info) {
		key, value, _ := strings.Cut(line, ":")
		found[key] = strings.TrimSpace(value)
	}
	return found["link_type"] + " " + found["attach_type"]
}
