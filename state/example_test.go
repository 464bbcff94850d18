// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state_test

import (
	"fmt"
	"os"
	"strings"

	"github.com/nftnat/nftnat/state"
)

func Example() {
	f, err := state.Decode(strings.NewReader(`
mappings:
  - 8081->172.17.0.2:81
  - {mapping: "53->172.17.0.2:53/udp", name: dns}
  - 8080->172.17.0.2:80
`), "mappings.yaml")
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := state.Encode(os.Stdout, f); err != nil {
		fmt.Println(err)
	}

	_, err = state.Decode(strings.NewReader("mappings:\n  - 8080-8000->172.17.0.2:80\n"), "mappings.yaml")
	fmt.Println(err)
	// Output:
	// # nftnat, complete with "..." as its last line
	// version: 1
	// mappings:
	//   - 8080-8081->172.17.0.2:80-81
	//   - {mapping: "53->172.17.0.2:53/udp", name: dns}
	// ...
	// mappings.yaml:2: invalid frontend "8080-8000": the range ends before it begins
}
