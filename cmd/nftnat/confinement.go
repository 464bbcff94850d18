// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/confine"
)

// enter moves the daemon into the namespace that its engine is to work in, so that it
// needs no privilege to open sockets there later. Where that cannot be, the engine's
// threads go there and back, and visits is true.
func enter(opts *engine.Options) (visits bool) {
	if opts.NetNS == "" {
		return false
	}
	// Why it could not be, the engine says better, if it cannot go there either.
	if err := confine.Enter(opts.NetNS); err != nil {
		return true
	}
	opts.NetNS = ""
	return false
}

// confine leaves a daemon that is up what it works with.
func (g *global) confine(flags serveFlags, l net.Listener, visits bool) confine.Report {
	o := confine.Options{
		Capabilities: []confine.Capability{confine.NetAdmin, confine.NetBindService},
		Namespaces:   visits,
	}
	if visits {
		o.Capabilities = append(o.Capabilities, confine.SysAdmin)
	}
	settings := confine.PathRule{Path: "/proc/sys/net", Access: confine.Read | confine.List}
	if !flags.noSysctl {
		settings.Access |= confine.Write
	}
	// The metrics tell of the process.
	o.Files = append(o.Files, settings, confine.PathRule{Path: "/proc/self", Access: confine.Read | confine.List})
	var changed []confine.PathRule
	if flags.state != "" {
		changed = append(changed, confine.PathRule{Path: filepath.Dir(flags.state), Access: confine.Read | confine.List | confine.Write | confine.Create | confine.Remove})
	}
	// A socket of the service manager's, which is of the first kind, is removed by it. Another
	// one is made anew if others have removed it, while the directory is locked.
	if _, handed := l.(*net.UnixListener); !handed {
		changed = append(changed, confine.PathRule{Path: filepath.Dir(l.Addr().String()), Access: confine.List | confine.MakeSocket | confine.Remove})
	}
	for _, tree := range changed {
		if !mayChange(tree.Path) {
			o.Capabilities = append(o.Capabilities, confine.DACOverride)
			break
		}
	}
	o.Files = append(o.Files, changed...)
	report := confine.Apply(o)
	for _, err := range report.Missing {
		g.logger().Warn("the daemon keeps more than it needs", "error", err)
	}
	return report
}

// mayChange reports whether files can be made in a directory, and be removed, without a
// capability, by the mode that it has for its owner and for others.
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

// confinementOf is a report as the API has it.
func confinementOf(r confine.Report) *api.Confinement {
	c := &api.Confinement{NoNewPrivileges: r.NoNewPrivileges, Landlock: r.Landlock, SystemCalls: r.SystemCalls}
	if r.Dropped {
		c.Capabilities = []string{}
	}
	for _, kept := range r.Capabilities {
		c.Capabilities = append(c.Capabilities, kept.String())
	}
	for _, err := range r.Missing {
		c.Missing = append(c.Missing, oneLine(err.Error()))
	}
	return c
}
