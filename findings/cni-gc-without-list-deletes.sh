#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: github.com/containernetworking/cni 1.3.1, package libcni
# Expected: GCNetworkList without a list of containers (nil arguments) collects nothing, as it does not say what is valid
# Happens: plugins get no list in GC, but before it each container of the network that libcni remembers gets a DEL, as if none were valid
#
# Seen: after ADD of c1: DEL c1, then GC without a list.
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/main.go" <<-'END'
		package main

		import (
			"context"
			"os"

			"github.com/containernetworking/cni/libcni"
		)

		func main() {
			dir, ctx := os.Args[1], context.Background()
			list, err := libcni.ConfListFromBytes([]byte(`{"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "logged"}]}`))
			if err == nil {
				c := libcni.NewCNIConfigWithCacheDir([]string{dir}, dir+"/cache", nil)
				if _, err = c.AddNetworkList(ctx, list, &libcni.RuntimeConf{ContainerID: "c1", NetNS: "/proc/self/ns/net", IfName: "eth0"}); err == nil {
					err = c.GCNetworkList(ctx, list, nil)
				}
			}
			if err != nil {
				panic(err)
			}
		}
	END
	module github.com/containernetworking/cni@v1.3.1
	cat >"$DIR/logged" <<-END
		#!/bin/sh
		in=\$(cat)
		case \$in in *cni.dev/valid-*) list='with a list' ;; *) list='without a list' ;; esac
		[ "\$CNI_COMMAND" = GC ] && echo "GC \$list" >>$DIR/log
		[ "\$CNI_COMMAND" = GC ] || echo "\$CNI_COMMAND \$CNI_CONTAINERID" >>$DIR/log
		[ "\$CNI_COMMAND" = VERSION ] && echo '{"cniVersion": "1.1.0", "supportedVersions": ["1.1.0"]}'
		[ "\$CNI_COMMAND" = ADD ] && echo '{"cniVersion": "1.1.0", "ips": []}'
		exit 0
	END
	chmod +x "$DIR/logged"
}

show() {
	grep containernetworking "$DIR/go.mod"
	"$DIR/main" "$DIR"
	expect 'calls of the plugin' 'ADD c1
DEL c1
GC without a list' "$(grep -v VERSION "$DIR/log")"
}

run
