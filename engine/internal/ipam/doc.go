// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package ipam keeps networks and the leases of their addresses. A change is made on a
// [State.Clone] of the state, which is dropped if the change fails; [Compare] tells what it
// changed.
package ipam
