#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: github.com/goreleaser/nfpm/v2 2.45.2
# Expected: with SOURCE_DATE_EPOCH set the same input gives the same package
# Happens: true for deb and rpm; an apk keeps the modification times of its scripts, so that each checkout makes another one
#
# Seen: "deb same", "rpm same", "apk differs".
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/main.go" <<-'END'
		package main

		import _ "github.com/goreleaser/nfpm/v2"

		func main() {}
	END
	module github.com/goreleaser/nfpm/v2@v2.45.2
	(cd "$DIR" && go build -o nfpm github.com/goreleaser/nfpm/v2/cmd/nfpm) >"$DIR/fetch.log" 2>&1 ||
		(cd "$DIR" && go get github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2 && go build -o nfpm github.com/goreleaser/nfpm/v2/cmd/nfpm) >"$DIR/fetch.log" 2>&1 ||
		{ cat "$DIR/fetch.log" >&2; exit 3; }
}

show() {
	cd "$DIR"
	grep goreleaser/nfpm go.mod | head -1
	printf '#!/bin/sh\n' >post
	printf '%s: %s\n' name x version 1.0.0 arch amd64 maintainer 'a <a@example.org>' description d scripts '{postinstall: post}' >nfpm.yaml
	export SOURCE_DATE_EPOCH=1700000000
	for format in deb rpm apk; do
		touch -d 2020-01-01 post && ./nfpm package -p $format -t a.$format >/dev/null
		touch -d 2021-01-01 post && ./nfpm package -p $format -t b.$format >/dev/null
		cmp -s a.$format b.$format && result=same || result=differs
		results+="$format $result "
	done
	expect 'two packages of the same files' 'deb same rpm same apk differs' "$results"
}

run
