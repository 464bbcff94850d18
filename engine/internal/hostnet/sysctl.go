// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"cmp"
	"fmt"
	"os"
	"path"
	"strings"
)

// Sysctls are the kernel's settings as files. Those below net/ are of the network
// namespace of the calling thread: read and write them within Do.
type Sysctls struct {
	Namespace *Namespace
	// Root is the directory of the files; "" is /proc/sys.
	Root string
}

// Do runs f inside the namespace.
func (s Sysctls) Do(f func() error) error { return s.Namespace.Do(f) }

func (s Sysctls) path(name string) string { return path.Join(cmp.Or(s.Root, "/proc/sys"), name) }

// Read returns a setting without its line end.
func (s Sysctls) Read(name string) (string, error) {
	b, err := os.ReadFile(s.path(name))
	if err != nil {
		return "", fmt.Errorf("read sysctl: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Write changes a setting. One that the kernel does not have is fs.ErrNotExist.
func (s Sysctls) Write(name, value string) error {
	f, err := os.OpenFile(s.path(name), os.O_WRONLY|os.O_TRUNC, 0)
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

// Exists reports whether the kernel has a setting.
func (s Sysctls) Exists(name string) bool {
	_, err := os.Stat(s.path(name))
	return err == nil
}
