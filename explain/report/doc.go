// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package report has what package explain answers: what becomes of a packet, the thing that
// stops it, and the steps of its way.
//
// It is apart from explain so that clients of the daemon, who read such an answer, need neither
// netlink nor x/sys. Its document in JSON is api.Explanation.
package report
