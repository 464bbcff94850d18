// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// A YAML file can have marks in the comments at its beginning.
const (
	// Encode writes that the file ends with endMark, so that one that was cut off, such as
	// by a pipe, is not read as a shorter list. YAML has the mark of the end (YAML 1.2
	// section 9.1.2), but does not require it.
	endPromise = `# nftnat, complete with "..." as its last line`
	endMark    = "..."
	// Files were YAML once: of all that follows there was a checksum, and the table.
	sumStart   = "# nftnat state, sha256 "
	sumEnd     = " of what follows; delete this line if you edit the file"
	tableStart = "# of table "
)

// marks are those that a file has.
type marks struct {
	sum     string // empty: none
	sumLine int
	table   string
	whole   bool // endPromise
}

// readMarks reads and checks the marks of a file.
func readMarks(file string) (m marks, fault *LineError) {
	n, rest := 0, file
	for line := range strings.Lines(file) {
		if saysSomething(line) {
			break
		}
		n++
		rest = rest[len(line):]
		line = strings.TrimRight(line, "\n")
		if sum, found := strings.CutPrefix(line, strings.TrimSpace(sumStart)); found && m.sum == "" {
			sum, _ = strings.CutSuffix(sum, sumEnd)
			m.sum, m.sumLine = strings.TrimSpace(sum), n
			if fault := checkSum(n, m.sum, rest); fault != nil {
				return m, fault
			}
		}
		// Only a checksum makes sure of the table.
		if table, found := strings.CutPrefix(line, tableStart); found && m.sumLine == n-1 && n > 1 {
			m.table = table
		}
		m.whole = m.whole || strings.TrimSpace(line) == endPromise
	}
	if !m.whole {
		return m, nil
	}
	return m, checkEnd(file)
}

// checkSum compares the checksum in a line with that of what follows it.
func checkSum(line int, want, follows string) *LineError {
	if sum := sha256.Sum256([]byte(follows)); hex.EncodeToString(sum[:]) != want {
		return fault(line, "checksum", want, fmt.Sprintf("what follows has %x: the file is damaged, or was edited; if it is as you want it, delete this line", sum))
	}
	return nil
}

// checkEnd refuses a file whose last line is not endMark. Comments may follow it.
func checkEnd(file string) *LineError {
	last, at, n := "", 1, 0
	for line := range strings.Lines(file) {
		n++
		if saysSomething(line) {
			last, at = strings.TrimRight(line, " \r\n"), n
		}
	}
	if last != endMark {
		return fault(at, "file", last, `it was cut short: its first lines say that its last is "..."`)
	}
	return nil
}

// saysSomething reports whether there is more in a text than blank lines and comments.
func saysSomething(text string) bool {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			return true
		}
	}
	return false
}
