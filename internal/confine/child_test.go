// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// threads are how many of its own a child keeps, half of them in a system call.
const threads = 8

// obey confines this process and tries what it is told to.
func obey(o order) (answer, error) {
	if err := failBefore(o.Before); err != nil {
		return answer{}, err
	}
	release, err := keepThreads()
	if err != nil {
		return answer{}, err
	}
	defer release()
	if o.Enter != "" {
		if err := Enter(o.Enter); err != nil {
			return answer{}, err
		}
	}
	r := Apply(o.Options)
	a := answer{NoNewPrivileges: r.NoNewPrivileges, Landlock: r.Landlock, SystemCalls: r.SystemCalls, Operations: map[string]string{}}
	for _, c := range r.Capabilities {
		a.Capabilities = append(a.Capabilities, c.String())
	}
	for _, err := range r.Missing {
		a.Missing = append(a.Missing, err.Error())
	}
	// From more threads than it had before, each of them new or not.
	var trying sync.WaitGroup
	var mu sync.Mutex
	for name, args := range o.Operations {
		trying.Go(func() {
			runtime.LockOSThread()
			result := outcome(operate(name, args))
			mu.Lock()
			defer mu.Unlock()
			a.Operations[name] = result
		})
	}
	trying.Wait()
	runtime.GC()
	a.Threads, err = lookAtThreads()
	return a, err
}

// failBefore makes calls fail as if the kernel had not got them.
func failBefore(failing map[int]unix.Errno) error {
	if len(failing) == 0 {
		return nil
	}
	p := []unix.SockFilter{load(dataNumber)}
	for number, e := range failing {
		p = append(p, unless(uint32(number), 1), refuse(e))
	}
	if err := noNewPrivileges(); err != nil {
		return err
	}
	return setFilter(append(p, permit()))
}

// keepThreads starts threads, which stay until release.
func keepThreads() (release func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	fd := int(r.Fd()) // blocking from now on
	done := make(chan struct{})
	var ready, running sync.WaitGroup
	for i := range threads {
		ready.Add(1)
		running.Go(func() {
			runtime.LockOSThread()
			ready.Done()
			if i%2 == 0 {
				<-done
				return
			}
			for {
				if _, err := unix.Read(fd, make([]byte, 1)); !errors.Is(err, unix.EINTR) {
					return
				}
			}
		})
	}
	ready.Wait()
	return func() {
		close(done)
		_ = w.Close()
		running.Wait()
		_ = r.Close()
	}, nil
}

// lookAtThreads reads what the kernel says of each, or nothing if it does not let it.
func lookAtThreads() ([]thread, error) {
	tasks, err := filepath.Glob("/proc/self/task/*")
	if err != nil {
		return nil, err
	}
	var all []thread
	for _, task := range tasks {
		status, err := os.ReadFile(filepath.Join(task, "status"))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return nil, err
		}
		ns, err := os.Readlink(filepath.Join(task, "ns/net"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		all = append(all, thread{Status: string(status), NetNS: ns})
	}
	return all, nil
}

// outcome names what became of an operation.
func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	var e unix.Errno
	if errors.As(err, &e) {
		return unix.ErrnoName(e)
	}
	return fmt.Sprint(err)
}
