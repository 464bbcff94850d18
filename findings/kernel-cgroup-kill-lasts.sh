#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, control groups version 2
# Expected: `cgroup.kill` kills what is in a group at that moment, and nothing later
# Happens: a process that enters the group later, and starts a child directly in another group (clone3 with CLONE_INTO_CGROUP), has that child killed at once, every time; a plain fork works
#
# Seen: "signal: killed" after the write to cgroup.kill of an empty group. Needs root.
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/main.go" <<-'END'
		package main

		import (
			"fmt"
			"os"
			"os/exec"
			"syscall"
		)

		func must(err error) {
			if err != nil {
				panic(err)
			}
		}

		func start(what, group string) {
			cmd := exec.Command("/bin/true")
			if group != "" {
				dir, err := os.Open(group)
				must(err)
				defer dir.Close()
				cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
			}
			fmt.Println(what, cmd.Run())
		}

		func main() {
			a, b := os.Args[1]+"/a", os.Args[1]+"/b"
			must(os.WriteFile(a+"/cgroup.procs", []byte("0"), 0))
			start("from a into b:", b)
			must(os.WriteFile(b+"/cgroup.procs", []byte("0"), 0))
			must(os.WriteFile(a+"/cgroup.kill", []byte("1"), 0)) // nobody is in it
			must(os.WriteFile(a+"/cgroup.procs", []byte("0"), 0))
			start("after the kill, from a into b:", b)
			start("after the kill, within a:", "")
		}
	END
	(cd "$DIR" && go mod init finding && go build -o main .) 2>/dev/null
}

show() {
	mkdir "$DIR/cgroup"
	mount -t cgroup2 cgroup2 "$DIR/cgroup"
	local top
	top=$(mktemp -d "$DIR/cgroup/finding-XXXXXX")
	mkdir "$top/a" "$top/b"
	output=$("$DIR/main" "$top")
	rmdir "$top/a" "$top/b" "$top"
	umount "$DIR/cgroup"
	expect 'before' 'from a into b: <nil>' "$output"
	expect 'after' 'after the kill, from a into b: signal: killed' "$output"
	expect 'after' 'after the kill, within a: <nil>' "$output"
}

run
