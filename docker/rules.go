// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// EnvMode says whether ports are published by netfilter ("full") or by proxies alone ("proxy-only").
// Empty or "auto": by proxies alone where dockerd makes rules of its own.
const EnvMode = "NFTNAT_DOCKER_MODE"

// The values of EnvMode that decide.
const modeFull, modeProxyOnly = "full", "proxy-only"

// modeOf is the value of EnvMode for a process whose parent is not dockerd.
func modeOf(proxyOnly bool) string {
	if proxyOnly {
		return modeProxyOnly
	}
	return modeFull
}

// proxyOnly reports whether the port is for a proxy alone.
func (p *Process) proxyOnly() bool {
	if p.config.HostIP.Is4() != p.config.ContainerIP.Is4() {
		return false // which it is in any case
	}
	switch os.Getenv(EnvMode) {
	case modeFull:
		return false
	case modeProxyOnly:
		return true
	}
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", os.Getppid()))
	return err == nil && makesRules(strings.Split(string(args), "\x00"), p.config.HostIP.Is6(), os.ReadFile)
}

// makesRules reports whether a process of these arguments is a dockerd that makes rules for a family.
// What cannot be read is so.
func makesRules(args []string, ip6 bool, read func(string) ([]byte, error)) bool {
	if filepath.Base(args[0]) != "dockerd" {
		return false
	}
	key, path := "iptables", "/etc/docker/daemon.json"
	if ip6 {
		key = "ip6tables"
	}
	for i, arg := range args[1:] {
		name, value, given := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch {
		case name == arg: // no flag
		case name == key:
			return !given || value != "false" && value != "0" && value != "f" && value != "F" && value != "FALSE" && value != "False"
		case name == "config-file" && given:
			path = value
		case name == "config-file" && i+2 < len(args):
			path = args[i+2]
		}
	}
	text, err := read(path)
	var config map[string]any
	if err != nil || json.Unmarshal(text, &config) != nil {
		return true
	}
	makes, ok := config[key].(bool)
	return makes || !ok
}
