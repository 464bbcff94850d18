// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// namePrefix begins the names of all owners.
const namePrefix = "cni:"

// hash returns the first letters of the SHA-256 of a text in lower-case base32 (RFC 4648).
func hash(text string, letters int) string {
	sum := sha256.Sum256([]byte(text))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])[:letters])
}

// networkPrefix begins the names of the owners of a network.
func networkPrefix(network string) string { return namePrefix + hash(network, 8) }

// OwnerName is the name of all mappings of a container's interface on a network: "cni:", 8 letters of
// the base32 of the SHA-256 of the network's name, and 26 of that of the container's id, a zero byte and the
// interface's name.
func OwnerName(network, containerID, ifName string) string {
	return networkPrefix(network) + hash(containerID+"\x00"+ifName, 26)
}

// owner is the record of an owner.
type owner struct {
	Network     string `json:"network"`
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
	// NetNS is the path of the container's network namespace, and Device and Inode are what it led
	// to. Inode zero: it led to nothing.
	NetNS  string `json:"netns"`
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
}

// newOwner looks which network namespace a path leads to.
func newOwner(network, containerID, ifName, netNS string) owner {
	o := owner{Network: network, ContainerID: containerID, IfName: ifName, NetNS: netNS}
	var stat unix.Stat_t
	if unix.Stat(netNS, &stat) == nil {
		o.Device, o.Inode = uint64(stat.Dev), stat.Ino //nolint:unconvert // it has 32 bits on mips
	}
	return o
}

// gone reports whether the path of the owner's network namespace leads to nothing, or to something
// else, by now. If that is not known, the owner is there.
func (o *owner) gone() bool {
	if o.Inode == 0 {
		return false
	}
	var stat unix.Stat_t
	switch err := unix.Stat(o.NetNS, &stat); {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return true
	case err != nil:
		return false
	}
	return uint64(stat.Dev) != o.Device || stat.Ino != o.Inode //nolint:unconvert // as above
}

// String describes the owner.
func (o *owner) String() string {
	return fmt.Sprintf("container %s (%s of network %s)", o.ContainerID, o.IfName, o.Network)
}

// records are the files of the owners.
type records struct{ dir string }

// RecordsDir is the directory of the records beside a daemon's socket.
func RecordsDir(socket string) string { return strings.TrimSuffix(socket, ".sock") + ".cni" }

// recordsOf are the records beside a daemon's socket.
func recordsOf(socket string) records { return records{RecordsDir(socket)} }

// path is the file of an owner.
func (r records) path(name string) string {
	return filepath.Join(r.dir, strings.TrimPrefix(name, namePrefix))
}

// part is the file that becomes that of an owner when it is complete.
func (r records) part(name string) string {
	return filepath.Join(r.dir, "."+strings.TrimPrefix(name, namePrefix))
}

// isName reports whether a name can be one that this package has made, and so that of a file.
func isName(name string) bool {
	rest, ok := strings.CutPrefix(name, namePrefix)
	return ok && len(rest) == 8+26 && strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// read returns the record of an owner; false: there is none that can be read.
func (r records) read(name string) (o owner, ok bool) {
	if !isName(name) {
		return owner{}, false
	}
	text, err := os.ReadFile(r.path(name))
	return o, err == nil && json.Unmarshal(text, &o) == nil
}

// exists reports whether there is a record of an owner, readable or not.
func (r records) exists(name string) bool {
	_, err := os.Lstat(r.path(name))
	return !errors.Is(err, fs.ErrNotExist)
}

// writeAttempts bounds how often the directory is made because another call has just removed it.
const writeAttempts = 100

// write makes the record of an owner, which other calls see whole or not at all.
func (r records) write(name string, o owner) (err error) {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	for range writeAttempts {
		if err := os.Mkdir(r.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err = os.WriteFile(r.part(name), text, 0o600); err == nil {
			err = os.Rename(r.part(name), r.path(name))
		}
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return err
}

// remove removes the record of an owner, if there is one, and the directory with the last one.
func (r records) remove(name string) error {
	var errs []error
	for _, path := range []string{r.path(name), r.part(name)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	_ = os.Remove(r.dir) // it may have others
	return errors.Join(errs...)
}

// removeAll removes the records of some owners.
func (r records) removeAll(goes func(string) bool) error {
	names, err := r.names(namePrefix)
	errs := []error{err}
	for _, name := range names {
		if goes(name) {
			errs = append(errs, r.remove(name))
		}
	}
	return errors.Join(errs...)
}

// names returns the names of the owners that have a record, complete or not, and a prefix.
func (r records) names(prefix string) ([]string, error) {
	entries, err := os.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		name := namePrefix + strings.TrimPrefix(e.Name(), ".")
		if isName(name) && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	return names, err
}
