// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

// PublishOptions say how mappings are published.
type PublishOptions struct {
	// Replace gives a frontend that is published already the new backend, name and
	// expiry, in one transaction, with no moment without a backend (before Linux 6.12, a packet
	// that arrives in just this moment may rarely find none). A mapping without a
	// name keeps the name of the port; one with a colon, as programs have that end by it what
	// they have made, only with IfName. The frontend must have the same address: one for
	// any address and one for a single address are in conflict as ever. Established TCP
	// connections stay with the old backend; UDP flows follow at once. Zero: a frontend
	// that is published already is a conflict.
	Replace bool
	// Kill ends established TCP connections to the old backends as well. It requires
	// Replace.
	Kill bool
	// IfName replaces only mappings of this name, so that a caller does not replace what has
	// become another owner's: any other one is a conflict, unless it is the mapping itself with
	// another expiry. It requires Replace, and is as in Mapping. Empty: mappings of any name are replaced.
	IfName string
}

// Validate refuses Kill and IfName without Replace, and an IfName that no mapping can have. The
// error is an [*InvalidError].
func (o PublishOptions) Validate() error {
	reason := "it is for what Replace replaces"
	switch {
	case o.Kill && !o.Replace:
		return &InvalidError{What: "options", Input: "Kill", Reason: reason}
	case o.IfName != "" && !o.Replace:
		return &InvalidError{What: "options", Input: "IfName", Reason: reason}
	case o.IfName != "":
		return ValidateName(o.IfName)
	}
	return nil
}

// Removal says which mappings to remove: those listed, or all of a name.
type Removal struct {
	// Mappings are removed by their protocol, frontend and number of ports; their other
	// fields do not count, unless Exact is set.
	Mappings []Mapping
	// Exact removes the mappings only if each leads to its Backend. Zero: wherever they
	// lead.
	Exact bool
	// Name, if it is not empty, removes the mappings only if all ports of them have that name;
	// without Mappings, it removes all of the name.
	Name string
	// Kill ends established TCP connections to the backends as well, except those that
	// the proxy of an earlier mapping of the port still carries. Zero: they go on,
	// whether netfilter or a proxy carries them.
	Kill bool
}

// Exchange says what is unpublished and what is published in its place, in one transaction.
type Exchange struct {
	// Remove has to be published as it says, whenever it expires.
	Remove []Mapping
	// Publish may have frontends of Remove. Any other frontend that is published is a conflict,
	// unless it is published so already. Each needs a frontend port.
	Publish []Mapping
}
