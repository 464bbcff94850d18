// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package flows deletes flows of connection tracking that the rules would no longer
// begin: rules see only the first packet of a flow, which then goes on as it began.
package flows
