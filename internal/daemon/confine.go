// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/confine"
	"github.com/nftnat/nftnat/internal/printable"
)

// confine leaves the process what its work takes.
func (s *server) confine() {
	o := confine.Options{
		Capabilities: []confine.Capability{confine.NetAdmin, confine.NetBindService},
		Namespaces:   s.outside,
		Maps:         true, // wide ranges have them, whatever serves localhost
	}
	if s.outside {
		o.Capabilities = append(o.Capabilities, confine.SysAdmin)
	}
	settings := confine.PathRule{Path: "/proc/sys/net", Access: confine.Read | confine.List}
	if !s.Engine.NoSysctl {
		settings.Access |= confine.Write
	}
	// The metrics have figures of the process.
	// By the users of the module ip_tables, explain knows whether there are tables of iptables-legacy.
	o.Files = []confine.PathRule{settings, {Path: "/proc/self", Access: confine.Read | confine.List}, {Path: "/sys/module", Access: confine.List}}
	var changed []confine.PathRule
	if s.StateFile != "" {
		changed = append(changed, confine.PathRule{Path: filepath.Dir(s.StateFile), Access: confine.Read | confine.List | confine.Write | confine.Create | confine.Remove})
	}
	// If others remove the file of a socket that the daemon made, it makes the file again, with
	// the directory locked.
	if !s.managed() {
		changed = append(changed, confine.PathRule{Path: filepath.Dir(s.listener.Addr().String()), Access: confine.List | confine.MakeSocket | confine.Remove})
	}
	if slices.ContainsFunc(changed, func(r confine.PathRule) bool { return !mayChange(r.Path) }) {
		o.Capabilities = append(o.Capabilities, confine.DACOverride)
	}
	o.Files = append(o.Files, changed...)
	s.confinement = confine.Apply(o)
	for _, err := range s.confinement.Missing {
		s.log.Warn("the daemon keeps more than it needs", "error", err)
	}
}

// mayChange reports whether the process can create and remove files in a directory without a
// capability, by the directory's mode for its owner and for others.
func mayChange(dir string) bool {
	info, err := os.Stat(dir)
	if err != nil {
		return true // nor will a capability help
	}
	const writable = 0o3
	stat, ok := info.Sys().(*syscall.Stat_t)
	if ok && int(stat.Uid) == os.Geteuid() {
		return info.Mode().Perm()>>6&writable == writable
	}
	return info.Mode().Perm()&writable == writable
}

// confinementOf is a report as a document of the API.
func confinementOf(r confine.Report) *api.Confinement {
	c := &api.Confinement{NoNewPrivileges: r.NoNewPrivileges, Landlock: r.Landlock, SystemCalls: r.SystemCalls}
	if r.Dropped {
		c.Capabilities = []string{}
	}
	for _, kept := range r.Capabilities {
		c.Capabilities = append(c.Capabilities, kept.String())
	}
	for _, err := range r.Missing {
		c.Missing = append(c.Missing, printable.Line(err.Error()))
	}
	return c
}
