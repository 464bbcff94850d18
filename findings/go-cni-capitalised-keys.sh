#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: github.com/containerd/go-cni 1.1.13
# Expected: port mappings are sent with the keys of the CNI conventions: hostPort, containerPort, protocol, hostIP
# Happens: they are sent as HostPort, ContainerPort, Protocol, HostIP: a plugin that reads JSON keys exactly sees ports 0
#
# Seen: [{"HostPort":8080,"ContainerPort":80,"Protocol":"tcp","HostIP":""}].
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/main.go" <<-'END'
		package main

		import (
			"encoding/json"
			"os"

			cni "github.com/containerd/go-cni"
		)

		func main() {
			_ = json.NewEncoder(os.Stdout).Encode([]cni.PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}})
		}
	END
	module github.com/containerd/go-cni@v1.1.13
}

show() {
	grep go-cni "$DIR/go.mod"
	expect 'the capability portMappings' '[{"HostPort":8080,"ContainerPort":80,"Protocol":"tcp","HostIP":""}]' "$("$DIR/main")"
}

run
