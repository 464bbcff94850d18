// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import "strings"

// A file that Encode writes says in its first line how it ends, so that one which was cut
// short, say by a pipe, is not taken for one that lists less. YAML itself has the mark of
// the end (YAML 1.2 section 9.1.2), but needs none.
const (
	endPromise = `# nftnat, complete with "..." as its last line`
	endMark    = "..."
)

// checkWhole refuses a text that does not end as it says at its beginning. Others may end
// as they like.
func checkWhole(text string) *LineError {
	if !promisesEnd(text) {
		return nil
	}
	rest := strings.TrimRight(text, " \r\n")
	last := rest[strings.LastIndexByte(rest, '\n')+1:]
	for rest != "" && !saysSomething(last) { // comments may follow
		rest = strings.TrimRight(strings.TrimSuffix(rest, last), " \r\n")
		last = rest[strings.LastIndexByte(rest, '\n')+1:]
	}
	if last != endMark {
		return fault(strings.Count(rest, "\n")+1, "file", last, `it was cut short: its first lines say that its last is "..."`)
	}
	return nil
}

// promisesEnd reports whether the promise is among the comments before all else.
func promisesEnd(text string) bool {
	for line := range strings.Lines(text) {
		if saysSomething(line) {
			return false
		}
		if strings.TrimSpace(line) == endPromise {
			return true
		}
	}
	return false
}
