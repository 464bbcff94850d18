// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import "fmt"

// TakenError says that a name, an address or a prefix is in use.
type TakenError struct {
	// What is in use: `endpoint web`, `address 172.30.0.2`, `network inside 172.30.0.0/24`.
	What string
	// Holder uses it, as text that can follow "by": `endpoint web`, `the route
	// 172.30.0.0/16 by eth0`. Empty: one of the same name.
	Holder string
}

func (e *TakenError) Error() string {
	if e.Holder == "" {
		return e.What + " exists already"
	}
	return fmt.Sprintf("%s is taken by %s", e.What, e.Holder)
}

// Unwrap returns [ErrConflict].
func (e *TakenError) Unwrap() error { return ErrConflict }
