// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// The first lines of a file that File writes are comments, so that the rest is what
// Encode writes and apply takes all of it. The first has the checksum of all that
// follows it.
const (
	sumStart   = "# nftnat state, sha256 "
	sumEnd     = " of what follows; delete this line if you edit the file"
	tableStart = "# of table "
)

// encodeRecord is the text of a file.
func encodeRecord(r nat.StoredState) ([]byte, error) {
	var b bytes.Buffer
	room := len(sumStart) + hex.EncodedLen(sha256.Size) + len(sumEnd) + len("\n")
	b.Write(make([]byte, room))
	if r.Table != "" {
		b.WriteString(tableStart + r.Table + "\n")
	}
	if err := Encode(&b, r.State); err != nil {
		return nil, err
	}
	text := b.Bytes()
	copy(text, fmt.Appendf(nil, "%s%x%s\n", sumStart, sha256.Sum256(text[room:]), sumEnd))
	// What nobody could read again is not worth writing.
	if len(text) > maxYAML {
		if _, ok := decodePlain(string(text)); !ok {
			return nil, tooLarge("state", maxYAML)
		}
	}
	return text, nil
}

// decodeRecord reads the text of a file.
func decodeRecord(text, name string) (nat.StoredState, error) {
	if !saysSomething(strings.TrimPrefix(text, byteOrderMark)) {
		err := fault(1, "file", "", "it says nothing; one of no mappings says \"mappings: []\", and to begin anew delete it")
		err.File = name
		return nat.StoredState{}, err
	}
	s, err := Decode(strings.NewReader(text), name)
	if err != nil {
		return nat.StoredState{}, err
	}
	r := nat.StoredState{State: s}
	// Only what is sure to be of our writing knows the table.
	if _, rest, summed, _ := cutSum(text); summed {
		line, _, _ := strings.Cut(rest, "\n")
		r.Table, _ = strings.CutPrefix(line, tableStart)
		if r.Table == line {
			r.Table = ""
		}
	}
	return r, nil
}

// cutSum finds the line of the checksum, which is a comment before all that is none, and
// returns the sum as it stands there, what follows, and which line it is, from 1.
func cutSum(text string) (sum, rest string, found bool, line int) {
	for text != "" {
		var l string
		l, text, _ = strings.Cut(text, "\n")
		line++
		if sum, found = strings.CutPrefix(l, strings.TrimSpace(sumStart)); found {
			sum, _ = strings.CutSuffix(sum, sumEnd)
			return strings.TrimSpace(sum), text, true, line
		}
		if saysSomething(l) {
			break
		}
	}
	return "", "", false, 0
}

// checkSum refuses a text whose checksum is there and not right.
func checkSum(text string) *LineError {
	want, rest, found, line := cutSum(text)
	if !found {
		return nil
	}
	if sum := sha256.Sum256([]byte(rest)); hex.EncodeToString(sum[:]) != want {
		return fault(line, "checksum", want, fmt.Sprintf("what follows has %x: the file is damaged, or was edited; if it is as you want it, delete this line", sum))
	}
	return nil
}
