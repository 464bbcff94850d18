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
	// maxFile bounds the memory that a file can take: some 100 bytes for each 10 of it.
	maxFile = 64 << 20
	// maxYAML is the bound of YAML that was not written here: the YAML library was
	// measured to take 100 bytes for each byte of a file of objects.
	maxYAML = 8 << 20
)

// Decode reads a file to its end: YAML, or JSON with the same keys. The name is for
// errors. Items are in the order of the file. Errors of r are wrapped; every other error
// is a [*LineError] or, for a file too large, an [*nat.InvalidError].
func Decode(r io.Reader, name string) (nat.State, error) {
	file, err := readAll(r, name)
	if err != nil {
		return nat.State{}, err
	}
	s, err := decode(file, name)
	return s.State, err
}

// readAll reads the whole text.
func readAll(r io.Reader, name string) (string, error) {
	file, err := read(r)
	if err != nil {
		var of *fs.PathError // of a file it has the name, too
		if errors.As(err, &of) {
			err = of.Err
		}
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return file, nil
}

// decode reads the text of a file, and which table had the state if the file says so.
func decode(file, name string) (s nat.StoredState, err error) {
	file = strings.TrimPrefix(file, byteOrderMark)
	if len(file) > maxFile {
		return s, tooLarge(name, maxFile)
	}
	var fault *LineError
	isJSON := strings.HasPrefix(strings.TrimLeft(file, " \t\r\n"), "{")
	if isJSON {
		s, isJSON, fault = decodeJSON(file)
	}
	if !isJSON {
		var m marks
		if m, fault = readMarks(file); fault == nil {
			if len(file) > maxYAML && m.sum == "" && !m.whole {
				return s, tooLarge(name, maxYAML)
			}
			s.Table = m.table
			var ok bool
			if s.State, ok = decodeLines(file); !ok {
				s.State, fault = decodeYAML(file)
			}
		}
	}
	if fault != nil {
		fault.File = name
		return nat.StoredState{}, fault
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
