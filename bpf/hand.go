// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf/internal/sys"
)

// newMaps makes maps. After an error none is open.
func newMaps(specs []*sys.MapSpec) (maps []*sys.Map, err error) {
	for _, spec := range specs {
		m, err := sys.NewMap(spec)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("make the map %s: %w", spec.Name, err), closeAll(nil, nil, maps))
		}
		maps = append(maps, m)
	}
	return maps, nil
}

func closeAll(links []*sys.Link, programs []*sys.Program, maps []*sys.Map) error {
	var errs []error
	for _, l := range links {
		errs = append(errs, l.Close())
	}
	for _, p := range programs {
		errs = append(errs, p.Close())
	}
	for _, m := range maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// closeAttached closes the descriptors of programs that links have.
func closeAttached(programs *[]*sys.Program) error {
	attached := *programs
	*programs = nil
	return closeAll(nil, attached, nil)
}

// Handed is programs on their way to another process.
type Handed struct {
	// Version is that of the maps: one process can take over those of another if it is the same.
	Version int
	// Files are the maps and links.
	Files []*os.File
}

// ErrVersion says that the programs of another process are of another version. Open new ones, which may be in force beside
// them.
var ErrVersion = errors.New("programs of another version")

// Close closes the files.
func (h Handed) Close() error {
	var errs []error
	for _, f := range h.Files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// hand makes copies of descriptors.
func hand(version int, maps []*sys.Map, links []*sys.Link) (_ Handed, err error) {
	h := Handed{Version: version}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close())
		}
	}()
	add := func(fd int) error {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err == nil {
			h.Files = append(h.Files, os.NewFile(uintptr(dup), "bpf"))
		}
		return err
	}
	for _, m := range maps {
		if err := add(m.FD()); err != nil {
			return h, err
		}
	}
	for _, l := range links {
		if err := add(l.FD()); err != nil {
			return h, err
		}
	}
	return h, nil
}

// open makes maps and links of copies of what was handed: as many maps as there are specs, of which they are, and as many links as
// there are places for them. After an error none is open.
func (h Handed) open(version int, specs []*sys.MapSpec, links int) (maps []*sys.Map, attached []*sys.Link, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll(attached, nil, maps))
			maps, attached = nil, nil
		}
	}()
	if h.Version != version || len(h.Files) != len(specs)+links {
		return nil, nil, ErrVersion
	}
	for i, spec := range specs {
		m, err := h.openMap(i, spec)
		if err != nil {
			return maps, attached, err
		}
		maps = append(maps, m)
	}
	for _, f := range h.Files[len(specs):] {
		fd, err := duplicate(f)
		if err != nil {
			return maps, attached, err
		}
		l, err := sys.LinkFromFD(fd) // which closes it after an error
		if err != nil {
			return maps, attached, err
		}
		attached = append(attached, l)
	}
	return maps, attached, nil
}

// word is a number of 32 bits, as a key or value of a map.
func word(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func duplicate(f *os.File) (int, error) { return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3) }

// openMap makes a map of a copy of a file. The error is ErrVersion if it is none like the spec.
func (h Handed) openMap(i int, spec *sys.MapSpec) (*sys.Map, error) {
	if i >= len(h.Files) {
		return nil, ErrVersion
	}
	fd, err := duplicate(h.Files[i])
	if err != nil {
		return nil, err
	}
	m, err := sys.MapFromFD(fd) // which closes it after an error
	if err != nil {
		return nil, err
	}
	if !m.Like(spec) {
		return nil, errors.Join(ErrVersion, m.Close())
	}
	return m, nil
}
