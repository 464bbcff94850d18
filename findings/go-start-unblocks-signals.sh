#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Go 1.26.8, packages runtime and os/signal
# Expected: a signal that is blocked and pending when a Go program is executed waits until the program asks for it: package os/signal names the signals that are unblocked at the start, and SIGTERM is none of them
# Happens: SIGTERM and SIGINT are unblocked on every thread before main, and before handlers are there, so that one that is pending ends the program
#
# Seen: started with SIGTERM blocked, it is not in SigBlk; with one pending the program is ended by it.
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/main.go" <<-'END'
		package main

		import (
			"fmt"
			"os"
			"os/signal"
			"strings"
			"syscall"
		)

		func main() {
			got := make(chan os.Signal, 1)
			signal.Notify(got, syscall.SIGTERM)
			status, _ := os.ReadFile("/proc/self/status")
			for line := range strings.Lines(string(status)) {
				if strings.HasPrefix(line, "SigBlk") {
					fmt.Print(line)
				}
			}
			if len(os.Args) > 1 {
				fmt.Println(<-got)
			}
		}
	END
	(cd "$DIR" && go mod init finding && CGO_ENABLED=0 go build -o main .) >"$DIR/fetch.log" 2>&1 || { cat "$DIR/fetch.log" >&2; exit 3; }
	go version >"$DIR/version"
}

show() {
	cat "$DIR/version"
	cat >"$DIR/start.py" <<-'END'
		import os, signal, subprocess, sys
		def blocked():
		    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
		def pending():
		    blocked()
		    os.kill(os.getpid(), signal.SIGTERM)
		r = subprocess.run([sys.argv[1]], preexec_fn=blocked, capture_output=True, text=True)
		print("blocked:", int(r.stdout.split()[1], 16) >> 14 & 1, "exit", r.returncode)
		for program in ([sys.argv[1], "wait"], ["/usr/bin/python3", "-c", "import signal; print(signal.sigtimedwait([15], 5).si_signo)"]):
		    r = subprocess.run(program, preexec_fn=pending, capture_output=True, text=True, timeout=20)
		    print("pending,", os.path.basename(program[0]) + ":", r.stdout.strip() or "-", "exit", r.returncode)
	END
	output=$(/usr/bin/python3 "$DIR/start.py" "$DIR/main")
	expect 'with SIGTERM blocked' 'blocked: 0 exit 0' "$output"
	expect 'and pending' 'pending, main: - exit -15' "$output"
	expect 'another program' 'pending, python3: 15 exit 0' "$output"
}

run
