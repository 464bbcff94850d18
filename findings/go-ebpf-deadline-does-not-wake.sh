#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: github.com/cilium/ebpf 0.20.0
# Expected: as with net.Conn and os.File, SetDeadline of a ringbuf.Reader in the past ends a Read that waits in another goroutine
# Happens: SetDeadline itself waits until that Read is over, and holds for the next one; what ends a Read is Flush (ErrFlushed) or Close
#
# Seen: two seconds later neither had returned; after Flush both did, and the next Read returned ErrDeadlineExceeded. Needs root.
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/main.go" <<-'END'
		package main

		import (
			"errors"
			"fmt"
			"os"
			"time"

			"github.com/cilium/ebpf"
			"github.com/cilium/ebpf/ringbuf"
		)

		func main() {
			m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: 4096})
			if err != nil {
				panic(err)
			}
			r, err := ringbuf.NewReader(m)
			if err != nil {
				panic(err)
			}
			read := make(chan error)
			go func() {
				_, err := r.Read()
				read <- err
			}()
			time.Sleep(2 * time.Second) // so that it waits
			set := make(chan struct{})
			go func() {
				r.SetDeadline(time.Unix(1, 0))
				close(set)
			}()
			select {
			case <-read:
				fmt.Println("SetDeadline ended Read")
				return
			case <-set:
				fmt.Println("SetDeadline returned")
				return
			case <-time.After(2 * time.Second):
				fmt.Println("SetDeadline and Read wait")
			}
			if err := r.Flush(); err != nil {
				panic(err)
			}
			fmt.Println("Flush: ErrFlushed", errors.Is(<-read, ringbuf.ErrFlushed))
			<-set
			_, err = r.Read()
			fmt.Println("the next Read: ErrDeadlineExceeded", errors.Is(err, os.ErrDeadlineExceeded))
		}
	END
	module github.com/cilium/ebpf@v0.20.0
}

show() {
	grep cilium/ebpf "$DIR/go.mod"
	output=$(timeout 60 "$DIR/main")
	expect 'a Read that waits' 'SetDeadline and Read wait' "$output"
	expect 'the same' 'Flush: ErrFlushed true' "$output"
	expect 'another' 'the next Read: ErrDeadlineExceeded true' "$output"
}

run
