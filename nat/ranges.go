// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import "fmt"

// RangesError means that there are too many ranges that are for one address each. It is an
// [ErrConflict].
type RangesError struct {
	// Want is the range that was to be published.
	Want Mapping
	// Most is how many there may be, of a protocol and family.
	Most int
}

// Error says how many there may be.
func (e *RangesError) Error() string {
	return fmt.Sprintf("%s would be one of more than %d ranges of one address", DescribeFrontend(e.Want), e.Most)
}

// Unwrap returns [ErrConflict].
func (e *RangesError) Unwrap() error { return ErrConflict }
