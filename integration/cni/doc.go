// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package cni has the versions of the CNI plugins and tools that the tests of the plugin build: those that it
// works beside, and portmap, whose own tests it passes. See TestCNIPortmapSuite.
package cni
