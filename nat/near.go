// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

// Near is a mapping that is perhaps meant where another frontend was asked for that is not
// published.
type Near struct {
	Mapping Mapping
	// Why says in a few words what makes it near: "over udp", "on another address",
	// "expired".
	Why string
}
