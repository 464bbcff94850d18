// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import "strconv"

// Proto is a transport protocol by its IANA protocol number: [TCP] or [UDP].
// nftables and conntrack use the same numbers. The zero value is no protocol and is refused.
type Proto uint8

// The protocols that can be published. The numbers are those of IANA's registry
// of protocol numbers, and of IPPROTO_TCP and IPPROTO_UDP in netinet/in.h.
const (
	TCP Proto = 6
	UDP Proto = 17
)

// String returns "tcp", "udp", or for any other number "Proto(132)".
func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	default:
		return "Proto(" + strconv.Itoa(int(p)) + ")"
	}
}

// ParseProto parses "tcp" or "udp", in lower case. Other text is an [*InvalidError].
func ParseProto(s string) (Proto, error) {
	switch s {
	case "tcp":
		return TCP, nil
	case "udp":
		return UDP, nil
	default:
		return 0, &InvalidError{What: whatProto, Input: s, Reason: "tcp or udp"}
	}
}

// MarshalText returns what [Proto.String] does, and an [*InvalidError] for a
// number that [ParseProto] could not read back.
func (p Proto) MarshalText() ([]byte, error) {
	if p != TCP && p != UDP {
		return nil, &InvalidError{What: whatProto, Input: p.String(), Reason: "tcp or udp"}
	}
	return []byte(p.String()), nil
}

// UnmarshalText sets p to the result of [ParseProto]. After an error p is unchanged.
func (p *Proto) UnmarshalText(text []byte) error {
	q, err := ParseProto(string(text))
	if err != nil {
		return err
	}
	*p = q
	return nil
}
