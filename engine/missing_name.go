// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"

	"github.com/nftnat/nftnat/nat"
)

// missingError says that there is no network or endpoint of a name. It is ErrNotFound.
type missingError struct{ what, name string }

func (e *missingError) Error() string {
	if e.name == "" {
		return "there is no " + e.what + " yet"
	}
	return fmt.Sprintf("there is no %s %q", e.what, e.name)
}

func (e *missingError) Unwrap() error { return nat.ErrNotFound }
