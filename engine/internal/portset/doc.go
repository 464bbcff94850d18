// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package portset has published ports, one by one, as an engine decides about them: a
// [Set] of them, a [Change] of it, how many lead to each backend ([Counts]), which
// frontends are reserved ([Reservations]) and when they end ([Expiries]).
//
// Callers know mappings, which may be ranges ([nat.Mapping]); [Expand] and [Collapse]
// convert. All of it is pure: no system call, no lock.
package portset
