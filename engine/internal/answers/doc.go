// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package answers computes how the answers of published ports are routed by the rules of the
// host.
//
// A rule "from ADDRESS lookup T" sends what a service of the host answers by table T. The
// answer of a backend has the backend's address when it is routed, so the rule does not see
// it. So the engine marks the answer according to the address that the client has called,
// and adds rules for the mark that say what the administrator's rules say for the address.
// [Plan] returns these marks and rules. It asks the kernel for nothing and changes nothing.
package answers
