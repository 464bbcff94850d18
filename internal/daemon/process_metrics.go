// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// writeRuntime writes figures of Go's runtime, by the names that Prometheus' own library for Go
// gives them.
func writeRuntime(e *exposition) {
	e.family("go_info", gauge, "The version of Go that the program is built with.")
	e.sample("go_info", fmt.Sprintf("version=%q", runtime.Version()), 1)
	e.metric("go_goroutines", gauge, "Goroutines that exist.", float64(runtime.NumGoroutine()))
	threads, _ := runtime.ThreadCreateProfile(nil)
	e.metric("go_threads", gauge, "Threads that have been started.", float64(threads))
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	e.family("go_gc_duration_seconds", summary, "Pauses of the program by garbage collections.")
	e.sample("go_gc_duration_seconds_sum", "", time.Duration(m.PauseTotalNs).Seconds())
	e.sample("go_gc_duration_seconds_count", "", float64(m.NumGC))
	e.metric("go_memstats_alloc_bytes", gauge, "Bytes on the heap, in use or not collected yet.", float64(m.Alloc))
	e.metric("go_memstats_alloc_bytes_total", counter, "Bytes that have been allocated on the heap.", float64(m.TotalAlloc))
	e.metric("go_memstats_mallocs_total", counter, "Objects that have been allocated on the heap.", float64(m.Mallocs))
	e.metric("go_memstats_frees_total", counter, "Objects that have been freed on the heap.", float64(m.Frees))
	e.metric("go_memstats_heap_objects", gauge, "Objects on the heap.", float64(m.HeapObjects))
	e.metric("go_memstats_heap_inuse_bytes", gauge, "Bytes of the heap's spans that hold objects.", float64(m.HeapInuse))
	e.metric("go_memstats_heap_idle_bytes", gauge, "Bytes of the heap's spans that hold none.", float64(m.HeapIdle))
	e.metric("go_memstats_heap_released_bytes", gauge, "Bytes of these that the system has back.", float64(m.HeapReleased))
	e.metric("go_memstats_stack_inuse_bytes", gauge, "Bytes of spans that hold stacks.", float64(m.StackInuse))
	e.metric("go_memstats_sys_bytes", gauge, "Bytes that the runtime has of the system.", float64(m.Sys))
	e.metric("go_memstats_next_gc_bytes", gauge, "Size of the heap at which the next collection begins.", float64(m.NextGC))
	e.metric("go_memstats_last_gc_time_seconds", gauge, "When the last collection ended, in seconds since 1970.", float64(m.LastGC)/1e9)
}

// writeProcess writes the figures of any process
// (https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics), as far as the
// kernel has them.
func writeProcess(e *exposition, started time.Time) {
	var used unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &used) == nil {
		e.metric("process_cpu_seconds_total", counter, "Processor time, of user and system.", time.Duration(used.Nano()).Seconds())
	}
	if n, err := openFiles(); err == nil {
		e.metric("process_open_fds", gauge, "Open file descriptors.", float64(n))
	}
	if n, err := mostFiles(); err == nil {
		e.metric("process_max_fds", gauge, "Most file descriptors that may be open.", float64(n))
	}
	if virtual, resident, err := memory(); err == nil {
		e.metric("process_virtual_memory_bytes", gauge, "Size of virtual memory.", float64(virtual))
		e.metric("process_resident_memory_bytes", gauge, "Size of resident memory.", float64(resident))
	}
	e.metric("process_start_time_seconds", gauge, "When the process started, in seconds since 1970.", float64(started.UnixMilli())/1e3)
}

// openFiles counts the descriptors. A daemon may have a hundred thousand of them; since Linux 6.2
// their number is the size of the directory, and their names need not be read.
func openFiles() (int, error) {
	info, err := os.Stat("/proc/self/fd")
	if err != nil {
		return 0, err
	}
	if n := info.Size(); n > 0 {
		return int(n), nil
	}
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return 0, err
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	return len(names) - 1, err // without dir
}

// mostFiles is the limit that is in force. It is read from a file because a confined daemon may
// not call prlimit.
func mostFiles() (n uint64, err error) {
	limits, err := os.ReadFile("/proc/self/limits")
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(limits), "\nMax open files ")
	_, err = fmt.Sscan(after, &n)
	return n, err
}

// memory is the size of the process, and how much of it is resident, in bytes
// (proc_pid_statm(5)).
func memory() (virtual, resident int, err error) {
	pages, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscan(string(pages), &virtual, &resident)
	return virtual * os.Getpagesize(), resident * os.Getpagesize(), err
}
