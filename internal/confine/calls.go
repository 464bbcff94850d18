// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64 || arm || riscv64 || mips || s390x

package confine

import (
	"slices"

	"golang.org/x/sys/unix"
)

// native is the architecture, and the calls that are allowed to a process.
func native(pid uint32, o Options) (arch uint32, calls []call) {
	all := slices.Concat(socketCalls(), fileCalls(), changeCalls(), runtimeCalls(), ownCalls(), ownSocketCalls())
	if o.Onlooker {
		all = slices.Concat(fileCalls(), runtimeCalls(), ownCalls())
		calls = append(calls, call{unix.SYS_OPENAT, &argument{index: 2, mask: unix.O_ACCMODE | unix.O_CREAT | unix.O_TRUNC, values: []uint32{unix.O_RDONLY}}})
	} else {
		calls = append(calls, call{number: unix.SYS_OPENAT}, call{unix.SYS_SOCKET, &argument{index: 0, mask: whole, values: []uint32{
			unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_UNIX,
		}}})
	}
	for _, number := range all {
		calls = append(calls, call{number: number})
	}
	for _, number := range mapCalls() { // memory that is not executable
		calls = append(calls, call{number, &argument{index: 2, mask: unix.PROT_EXEC, values: []uint32{0}}})
	}
	// The log asks whether it is a terminal.
	requests := []uint32{unix.TCGETS}
	if o.Namespaces {
		requests = append(requests, unix.SIOCGSKNS)
		calls = append(calls, call{unix.SYS_SETNS, &argument{index: 1, mask: whole, values: []uint32{unix.CLONE_NEWNET}}})
	}
	return nativeArch, append(calls,
		// Threads, not processes.
		call{unix.SYS_CLONE, &argument{index: cloneFlags, mask: unix.CLONE_THREAD, values: []uint32{unix.CLONE_THREAD}}},
		// The runtime wakes its own threads,
		call{unix.SYS_TGKILL, &argument{index: 0, mask: whole, values: []uint32{pid}}},
		// and names its memory for those who read /proc/PID/maps.
		call{unix.SYS_PRCTL, &argument{index: 0, mask: whole, values: []uint32{unix.PR_SET_VMA}}},
		call{unix.SYS_IOCTL, &argument{index: 1, mask: whole, values: requests}},
	)
}

// whole is the mask of an argument that is looked at as it is.
const whole = ^uint32(0)

// runtimeCalls are those of the Go runtime, and of a C library's threads. It may make any
// of them at any time.
func runtimeCalls() []uint32 {
	return []uint32{
		unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_SCHED_YIELD, unix.SYS_CLOCK_GETTIME, unix.SYS_GETPID, unix.SYS_GETTID,
		unix.SYS_RT_SIGRETURN, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGACTION, unix.SYS_SIGALTSTACK,
		unix.SYS_MADVISE, unix.SYS_MUNMAP, unix.SYS_MINCORE, unix.SYS_MREMAP, unix.SYS_BRK,
		unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_MEMBARRIER, unix.SYS_SCHED_GETAFFINITY,
		unix.SYS_CLOCK_NANOSLEEP, unix.SYS_GETTIMEOFDAY, unix.SYS_RESTART_SYSCALL, unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
		unix.SYS_GETRANDOM, unix.SYS_UNAME, unix.SYS_GETUID, unix.SYS_GETEUID,
		unix.SYS_WAITID, unix.SYS_WAIT4, // for a process that it has started before
	}
}

// fileCalls read what is open, and names.
func fileCalls() []uint32 {
	return []uint32{
		unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_CREATE1, unix.SYS_EVENTFD2, unix.SYS_PPOLL,
		unix.SYS_READ, unix.SYS_WRITE, unix.SYS_CLOSE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64,
		unix.SYS_LSEEK, unix.SYS_FCNTL, unix.SYS_FSTAT, statCall, unix.SYS_STATX,
		unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2, unix.SYS_READLINKAT, unix.SYS_GETDENTS64,
	}
}

// changeCalls change files, as far as Landlock lets them.
func changeCalls() []uint32 {
	return []uint32{
		unix.SYS_PWRITE64, unix.SYS_FLOCK, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_FTRUNCATE,
		unix.SYS_UNLINKAT, unix.SYS_RENAMEAT2,
	}
}

// socketCalls are those on sockets, and on the pipes between them.
func socketCalls() []uint32 {
	return []uint32{
		unix.SYS_SPLICE, unix.SYS_RECVFROM, unix.SYS_SENDTO, unix.SYS_RECVMMSG, unix.SYS_SENDMMSG, unix.SYS_RECVMSG, unix.SYS_SENDMSG,
		unix.SYS_ACCEPT4, unix.SYS_CONNECT, unix.SYS_SETSOCKOPT, unix.SYS_GETSOCKOPT, unix.SYS_SHUTDOWN,
		unix.SYS_BIND, unix.SYS_LISTEN, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_PIPE2,
	}
}
