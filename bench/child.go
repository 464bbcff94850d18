// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
)

// childVariable tells this program which child to be, such as the backend or a load.
const childVariable = "NFTNAT_BENCH_CHILD"

func runChild(name string) error {
	switch name {
	case "backend":
		return childBackend()
	case "load":
		return childLoad()
	case "read":
		return childRead()
	}
	return fmt.Errorf("unknown child %q", name)
}

// child is another process of this program.
type child struct {
	cmd *exec.Cmd
	in  io.Closer
	out *bufio.Reader
}

// anyProcessor lets the scheduler choose where a child runs.
const anyProcessor = -1

// startChild starts this program as one of its children, inside a namespace and on one
// processor or any.
func startChild(ns *lab.NS, processor int, name string, env ...string) (*child, error) {
	cmd := exec.Command("/proc/self/exe")
	// The runtime's signals would interrupt the blocking system calls of a load.
	cmd.Env = append(os.Environ(), append(env, childVariable+"="+name, "GODEBUG=asyncpreemptoff=1")...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	err = ns.Do(func() error {
		if processor != anyProcessor { // of this thread, which ends with Do, and of what it starts
			var set unix.CPUSet
			set.Set(processor)
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				return err
			}
		}
		return cmd.Start()
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &child{cmd, in, bufio.NewReader(out)}, nil
}

// line reads one line of what the child prints.
func (c *child) line() (string, error) {
	line, err := c.out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("child said nothing more: %w", err)
	}
	return strings.TrimSpace(line), nil
}

// end ends the child and waits for it.
func (c *child) end() error {
	_ = c.in.Close()
	_, _ = io.Copy(io.Discard, c.out)
	return c.cmd.Wait()
}

// untilStdinEnds is how a child waits for its parent.
func untilStdinEnds() { _, _ = io.Copy(io.Discard, os.Stdin) }

// apply runs a load in a child and returns what it measured.
func apply(ns *lab.NS, processor int, l load) (measured, error) {
	c, err := startLoad(ns, processor, l)
	if err != nil {
		return measured{}, err
	}
	line, err := c.line()
	if endErr := c.end(); endErr != nil {
		err = fmt.Errorf("load %s at %s: %w", l.Kind, l.Addr, endErr)
	}
	var m measured
	if err == nil {
		err = json.Unmarshal([]byte(line), &m)
	}
	return m, err
}

func startLoad(ns *lab.NS, processor int, l load) (*child, error) {
	text, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	return startChild(ns, processor, "load", "LOAD="+string(text))
}
