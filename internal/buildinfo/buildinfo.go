// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package buildinfo has the version of a program, and how it was built.
package buildinfo

import (
	"runtime"
	"runtime/debug"
	"strings"
)

// Version is the version of this source tree, without a leading v. It stands nowhere else:
// the program, the packages, the man pages, the metrics and the Makefile read it here, and a
// test compares CHANGELOG.md and the tag with it.
const Version = "0.1.0"

// Info describes the build of a program.
type Info struct {
	// Version is the constant of the same name.
	Version string `json:"version"`
	// Commit is the hash of the commit, with "-dirty" at the end if there were uncommitted
	// changes. Empty: it was not built in a checkout, or with -buildvcs=false.
	Commit string `json:"commit,omitempty"`
	// Go is the toolchain's version; OS and Arch are what the program was built for.
	Go   string `json:"go"`
	OS   string `json:"os"`
	Arch string `json:"arch"`
}

// Read returns the build of the running program.
func Read() Info {
	i := Info{Version: Version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return i
	}
	settings := make(map[string]string, len(info.Settings))
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	i.Commit = settings["vcs.revision"]
	if i.Commit != "" && settings["vcs.modified"] == "true" {
		i.Commit += dirty
	}
	return i
}

const dirty = "-dirty"

// String returns one line, such as
//
//	0.1.0 (a3e840935e11-dirty) go1.25.4 linux/amd64
func (i Info) String() string {
	s := i.Version
	if i.Commit != "" {
		hash, suffix := i.Commit, ""
		if h, ok := strings.CutSuffix(hash, dirty); ok {
			hash, suffix = h, dirty
		}
		s += " (" + hash[:min(len(hash), 12)] + suffix + ")"
	}
	return s + " " + i.Go + " " + i.OS + "/" + i.Arch
}
