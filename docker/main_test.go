// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"os"
	"testing"
)

// envSocket makes this program docker-proxy, with the daemon's socket.
const envSocket = "NFTNAT_TEST_SOCKET"

func TestMain(m *testing.M) {
	if socket := os.Getenv(envSocket); socket != "" {
		p := Process{Socket: socket, Args: os.Args, Flags: os.Args[1:], Version: "1.2.3", Stdout: os.Stdout, Stderr: os.Stderr}
		os.Exit(p.Run())
	}
	os.Exit(m.Run())
}
