// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"github.com/nftnat/nftnat/internal/lab"
)

// process is a program that runs in a namespace.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended

	mu  sync.Mutex
	out bytes.Buffer
}

// Write takes what the program writes.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

// run starts a program inside ns. It ends with the demonstration, however that ends.
func (d *demonstration) run(ns *lab.NS, program string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		defer close(p.done)
		// It is killed when the thread that started it ends, so that waits for it.
		reported := false
		err := ns.Do(func() error {
			if err := p.cmd.Start(); err != nil {
				return err
			}
			reported = true
			started <- nil
			_ = p.cmd.Wait() // how it ended does not count
			return nil
		})
		if !reported {
			started <- err
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", program, ns, err)
	}
	d.processes = append(d.processes, p)
	return p, nil
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // unless it has ended
	<-p.done
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop ends all programs.
func (d *demonstration) stop() {
	for _, p := range d.processes {
		p.kill()
	}
}

// output is what the programs have written.
func (d *demonstration) output() string {
	var b strings.Builder
	for _, p := range d.processes {
		p.mu.Lock()
		fmt.Fprintf(&b, "%s:\n%s\n", p.cmd, &p.out)
		p.mu.Unlock()
	}
	return b.String()
}
