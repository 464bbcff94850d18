// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package hostnet reads and changes what belongs to the host and not to nftables: the
// network namespace, sysctls and IP forwarding, and routes.
//
// Nothing here has a lock: the caller makes one call at a time.
package hostnet
