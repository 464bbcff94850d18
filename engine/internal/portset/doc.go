// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package portset has sets of published ports: a [Set], a [Change] of it, the number of
// ports of each backend ([Counts]), which frontends are reserved ([Reservations]) and when
// ports expire ([Expiries]).
//
// Callers know mappings, which may be ranges ([nat.Mapping]); [Expand] and [Collapse]
// convert. All of it is pure: no system call, no lock.
package portset
