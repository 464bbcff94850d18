// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
)

// NewNS is [lab.New] for a test, closed when the test ends.
func NewNS(tb testing.TB, name string) *lab.NS {
	tb.Helper()
	Require(tb)
	n, err := lab.New(name)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := n.Close(); err != nil {
			tb.Error(err)
		}
	})
	return n
}

// NewTopology is [lab.Build] for a test, closed when the test ends.
func NewTopology(tb testing.TB, o lab.Options) *lab.Topology {
	tb.Helper()
	Require(tb)
	top, err := lab.Build(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := top.Close(); err != nil {
			tb.Error(err)
		}
	})
	return top
}

// NewLAN is [lab.NewLAN] for a test, closed when the test ends.
func NewLAN(tb testing.TB) *lab.LAN {
	tb.Helper()
	Require(tb)
	l, err := lab.NewLAN()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Error(err)
		}
	})
	return l
}

// AddMachine is [lab.LAN.Add] for a test.
func AddMachine(tb testing.TB, l *lab.LAN, name string, number byte) *lab.NS {
	tb.Helper()
	n, err := l.Add(name, number)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// MountNS gives a namespace a name as ip-netns(8) does, so that programs find
// it at /run/netns/NAME, which is returned. Only this process and its children
// see it. The name is removed when the test ends.
func MountNS(tb testing.TB, ns *lab.NS, name string) string {
	tb.Helper()
	Require(tb)
	path := filepath.Join("/run/netns", name)
	if err := mountNS(ns.Path(), path); err != nil {
		tb.Fatalf("name %s %s: %v", ns, path, err)
	}
	tb.Cleanup(func() {
		if err := errors.Join(unix.Unmount(path, unix.MNT_DETACH), os.Remove(path)); err != nil {
			tb.Errorf("remove name %s of %s: %v", path, ns, err)
		}
	})
	return path
}

func mountNS(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Close(), unix.Mount(from, to, "", unix.MS_BIND, "")); err != nil {
		return errors.Join(err, os.Remove(to))
	}
	return nil
}
