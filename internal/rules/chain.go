// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// String returns the chain as nft(8) begins it, for a base chain: "type filter hook forward
// priority filter; policy drop;". For others it is empty.
func (c *Chain) String() string {
	b := c.Base
	if b == nil {
		return ""
	}
	devices := ""
	switch {
	case len(b.Devices) == 1:
		devices = ` device "` + b.Devices[0] + `"`
	case len(b.Devices) > 1:
		devices = " devices = { " + strings.Join(b.Devices, ", ") + " }"
	}
	return fmt.Sprintf("type %s hook %s%s priority %s; policy %s;", b.Type, c.Hook(), devices, c.Priority(), choose(b.Policy == nfDrop, "drop", "accept"))
}

const nfDrop = 0

// Hook returns the hook of a base chain as nft(8) names it.
func (c *Chain) Hook() string {
	inet := []string{
		unix.NF_INET_PRE_ROUTING: "prerouting", unix.NF_INET_LOCAL_IN: "input", unix.NF_INET_FORWARD: "forward", unix.NF_INET_LOCAL_OUT: "output",
		unix.NF_INET_POST_ROUTING: "postrouting", unix.NF_INET_NUMHOOKS: "ingress",
	}
	names := inet
	switch c.Table.Family {
	case unix.NFPROTO_NETDEV:
		names = []string{"ingress", "egress"}
	case unix.NFPROTO_ARP:
		names = []string{"input", "output", "forward"}
	}
	if int(c.Base.Hook) < len(names) {
		return names[c.Base.Hook]
	}
	return fmt.Sprint("hook", c.Base.Hook)
}

// Priority returns the priority of a base chain as nft(8) lists it: by a name that it is near to, as "dstnat - 10".
func (c *Chain) Priority() string {
	type standard struct {
		name     string
		priority int32
		hook     string // empty: any
	}
	names := []standard{
		{"raw", -300, ""}, {"mangle", -150, ""}, {"dstnat", -100, "prerouting"}, {"filter", 0, ""}, {"security", 50, ""}, {"srcnat", 100, "postrouting"},
	}
	switch c.Table.Family {
	case unix.NFPROTO_BRIDGE:
		names = []standard{{"dstnat", -300, "prerouting"}, {"filter", -200, ""}, {"out", 100, "output"}, {"srcnat", 300, "postrouting"}}
	case unix.NFPROTO_NETDEV, unix.NFPROTO_ARP:
		names = names[3:4]
	}
	const near = 10
	hook := c.Hook()
	for _, n := range names {
		switch d := int64(c.Base.Priority) - int64(n.priority); {
		case n.hook != "" && n.hook != hook || d < -near || d > near:
		case d == 0:
			return n.name
		case d < 0:
			return fmt.Sprintf("%s - %d", n.name, -d)
		default:
			return fmt.Sprintf("%s + %d", n.name, d)
		}
	}
	return fmt.Sprint(c.Base.Priority)
}
