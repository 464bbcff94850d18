// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Sysctl sets a kernel setting inside the namespace, named as sysctl(8) does
// ("net.ipv4.ip_forward"), or with slashes where the name of an interface has
// a dot in it ("net/ipv4/conf/eth0.7/forwarding"). A setting that this kernel
// does not have is fs.ErrNotExist.
func (n *NS) Sysctl(key, value string) error {
	err := n.Do(func() error { return writeSysctl(sysctlPath(key), value) })
	if err != nil {
		return fmt.Errorf("set %s in %s: %w", key, n.name, err)
	}
	return nil
}

// ReadSysctl returns a kernel setting of the namespace without the newline.
// Keys and errors are those of [NS.Sysctl].
func (n *NS) ReadSysctl(key string) (string, error) {
	var value []byte
	err := n.Do(func() (err error) {
		value, err = os.ReadFile(filepath.Join("/proc/sys", sysctlPath(key)))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read %s in %s: %w", key, n.name, err)
	}
	return strings.TrimSpace(string(value)), nil
}

func sysctlPath(key string) string {
	if strings.Contains(key, "/") {
		return key
	}
	return strings.ReplaceAll(key, ".", "/")
}

// writeSysctl writes below /proc/sys as seen by the calling thread: net/ there
// is the namespace of whoever opens it (net/sysctl_net.c), no matter which
// process /proc is mounted for.
func writeSysctl(path, value string) error {
	// Without O_CREATE, so that a missing setting is ErrNotExist, not
	// ErrPermission.
	f, err := os.OpenFile(filepath.Join("/proc/sys", path), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
