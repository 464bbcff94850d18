// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"os"
	"path"
	"strings"
)

// sysctls are the kernel's settings as files, those below net/ being the ones of
// the network namespace that the reading thread is in.
type sysctls struct {
	ns *namespace
	// root is where they are. Tests have a directory of their own.
	root string
}

const procSys = "/proc/sys"

func (s sysctls) do(f func() error) error { return s.ns.do(f) }

// read and write are for within do.

func (s sysctls) read(name string) (string, error) {
	b, err := os.ReadFile(path.Join(s.root, name))
	if err != nil {
		return "", fmt.Errorf("read sysctl: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func (s sysctls) write(name, value string) error {
	// Not created: what the kernel does not have cannot be set.
	f, err := os.OpenFile(path.Join(s.root, name), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return fmt.Errorf("write sysctl: %w", err)
	}
	_, err = f.WriteString(value)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("write sysctl: %w", err)
	}
	return nil
}

// exists reports whether the kernel has the setting.
func (s sysctls) exists(name string) bool {
	_, err := os.Stat(path.Join(s.root, name))
	return err == nil
}
