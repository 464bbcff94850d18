// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"errors"
	"fmt"
	"slices"

	"github.com/nftnat/nftnat/nat"
)

func ExampleParseMappingText() {
	m, err := nat.ParseMappingText("192.0.2.1:8000-8009->172.17.0.2:9000-9009/udp")
	fmt.Println(m.Proto, m.Frontend, m.Backend, m.More, err)

	_, err = nat.ParseMappingText("8080-8000->172.17.0.2:80")
	fmt.Println(err, errors.Is(err, nat.ErrInvalid))
	// Output:
	// udp 192.0.2.1:8000 172.17.0.2:9000 9 <nil>
	// invalid frontend "8080-8000": the range ends before it begins true
}

func ExampleParseMapping() {
	for _, frontend := range []string{"53", "[2001:db8::1]:53", "0"} {
		m, err := nat.ParseMapping("udp", frontend, "[fd00::2]:5353")
		fmt.Println(m, err)
	}
	// Output:
	// 53->[fd00::2]:5353/udp <nil>
	// [2001:db8::1]:53->[fd00::2]:5353/udp <nil>
	// 0->[fd00::2]:5353/udp <nil>
}

func ExampleCollapse() {
	m, _ := nat.ParseMappingText("8000-8002->172.17.0.2:80-82")
	ones := slices.Collect(nat.Expand(m))
	fmt.Println(ones)
	fmt.Println(nat.Collapse(ones))
	// Output:
	// [8000->172.17.0.2:80 8001->172.17.0.2:81 8002->172.17.0.2:82]
	// [8000-8002->172.17.0.2:80-82]
}

func ExampleValidateAll() {
	web, _ := nat.ParseMappingText("8080->172.17.0.2:80")
	one, _ := nat.ParseMappingText("192.0.2.1:8080->172.17.0.3:80")
	fmt.Println(nat.ValidateAll(web, one))
	// Output:
	// mappings 8080->172.17.0.2:80 and 192.0.2.1:8080->172.17.0.3:80 overlap: both claim tcp port 8080
}
