// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package flows deletes flows of connection tracking that contradict the rules. Rules see
// only the first packet of a flow, so a change of the rules does not affect flows that
// exist.
package flows
