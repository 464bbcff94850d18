// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package difftest compares what explain and eval predict with what the kernel does. It has tests
// only.
//
// A scenario is a random ruleset and a random state of a host, made from a seed. Clients send
// real packets to published ports, whose way nftrace records. Each packet at each hook is
// given to eval, and each client to explain. A scenario that fails is made smaller, one rule
// after another, and printed as a script.
package difftest
