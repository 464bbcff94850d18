// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// LineError says where in a file a fault is. Its cause satisfies
// [nat.ErrInvalid].
type LineError struct {
	File string // as given to Decode
	Line int    // from 1
	Err  error
}

// Error returns "mappings.yaml:7: " and the cause, in one line.
func (e *LineError) Error() string { return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err) }

// Unwrap returns the cause.
func (e *LineError) Unwrap() error { return e.Err }

// byteOrderMark may precede a document (YAML 1.2 section 5.2).
const byteOrderMark = "\ufeff"

const (
	// maxFile bounds what a file can make us hold: some 100 bytes of memory
	// for each 10 of it.
	maxFile = 64 << 20
	// maxYAML is the same for the library, which was measured to take 100
	// bytes for each byte of a file of objects.
	maxYAML = 8 << 20
)

// Decode reads a file to its end. The name is for errors only. A file without any of the
// three lists is refused, and so is one of Encode that was cut short. What it lists is in
// the order of the file; of what it does not have, there is nothing. Errors of r are wrapped; every other error is a
// [*LineError], or, for a file too large, an [*nat.InvalidError].
func Decode(r io.Reader, name string) (nat.State, error) {
	text, err := read(r)
	if err != nil {
		var of *fs.PathError // of a file it has the name, too
		if errors.As(err, &of) {
			err = of.Err
		}
		return nat.State{}, fmt.Errorf("read %s: %w", name, err)
	}
	text = strings.TrimPrefix(text, byteOrderMark)
	if len(text) > maxFile {
		return nat.State{}, tooLarge(name, maxFile)
	}
	if fault := checkSum(text); fault != nil {
		fault.File = name
		return nat.State{}, fault
	}
	if fault := checkWhole(text); fault != nil {
		fault.File = name
		return nat.State{}, fault
	}
	if s, ok := decodePlain(text); ok {
		return s, nil
	}
	if len(text) > maxYAML {
		return nat.State{}, tooLarge(name, maxYAML)
	}
	s, fault := decodeYAML(text)
	if fault != nil {
		fault.File = name
		return nat.State{}, fault
	}
	return s, nil
}

func tooLarge(name string, limit int) error {
	return &nat.InvalidError{What: "file", Input: name, Reason: fmt.Sprintf("it is larger than %d MiB", limit>>20)}
}

// read returns the whole text and no copy of it: where r can tell how much is
// to come, memory is asked for once. It stops past maxFile.
func read(r io.Reader) (string, error) {
	var size int64
	switch r := r.(type) {
	case interface{ Len() int }: // strings.Reader, bytes.Buffer
		size = int64(r.Len())
	case interface{ Stat() (fs.FileInfo, error) }: // os.File
		if info, err := r.Stat(); err == nil && info.Mode().IsRegular() {
			size = info.Size()
		}
	}
	var b strings.Builder
	b.Grow(int(min(max(size, 0), maxFile)))
	_, err := io.Copy(&b, io.LimitReader(r, maxFile+int64(len(byteOrderMark))+1))
	return b.String(), err
}
