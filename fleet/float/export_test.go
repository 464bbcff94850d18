// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package float

// Lease is [Manager.Session] with a lease that a test has changed.
func (m *Manager) Lease(l lease) { m.call(func() { m.renewed(l) }) }
