// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package confine

import "golang.org/x/sys/unix"

// nativeArch is how the kernel names the architecture of the list.
const nativeArch = unix.AUDIT_ARCH_X86_64

// whole is the mask of an argument that is looked at as it is.
const whole = ^uint32(0)

// allowedCalls are the calls that stay allowed to the process pid.
func allowedCalls(pid uint32, o Options) []call {
	// The log asks whether it is a terminal.
	requests := []uint32{unix.TCGETS}
	calls := []call{
		{unix.SYS_SOCKET, &argument{0, whole, []uint32{unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_UNIX}}},
	}
	for _, number := range plainCalls() {
		calls = append(calls, call{number: number})
	}
	if o.Namespaces {
		requests = append(requests, unix.SIOCGSKNS)
		calls = append(calls, call{unix.SYS_SETNS, &argument{1, whole, []uint32{unix.CLONE_NEWNET}}})
	}
	// Which programs are attached to an interface, and of the rest of bpf(2) what takes an open map.
	commands := []uint32{unix.BPF_PROG_QUERY}
	if o.Maps {
		commands = append(commands, mapCommands()...)
	}
	return append(calls,
		call{unix.SYS_BPF, &argument{0, whole, commands}},
		// No memory that is executable.
		call{unix.SYS_MMAP, &argument{2, unix.PROT_EXEC, []uint32{0}}},
		call{unix.SYS_MPROTECT, &argument{2, unix.PROT_EXEC, []uint32{0}}},
		// Threads, not processes.
		call{unix.SYS_CLONE, &argument{0, unix.CLONE_THREAD, []uint32{unix.CLONE_THREAD}}},
		// The runtime wakes its own threads,
		call{unix.SYS_TGKILL, &argument{0, whole, []uint32{pid}}},
		// and names its memory for those who read /proc/PID/maps.
		call{unix.SYS_PRCTL, &argument{0, whole, []uint32{unix.PR_SET_VMA}}},
		call{unix.SYS_IOCTL, &argument{1, whole, requests}},
	)
}

// mapCommands are those of bpf(2) that read and write a map by its descriptor. None makes a map or
// loads a program.
func mapCommands() []uint32 {
	return []uint32{
		unix.BPF_MAP_LOOKUP_ELEM, unix.BPF_MAP_UPDATE_ELEM, unix.BPF_MAP_DELETE_ELEM, unix.BPF_MAP_GET_NEXT_KEY,
		unix.BPF_MAP_LOOKUP_BATCH, unix.BPF_MAP_UPDATE_BATCH, unix.BPF_MAP_DELETE_BATCH,
	}
}

// plainCalls are those that are allowed with any arguments, those made most first.
func plainCalls() []uint32 {
	return []uint32{
		// Sockets, and the pipes between them.
		unix.SYS_SPLICE, unix.SYS_RECVFROM, unix.SYS_SENDTO, unix.SYS_RECVMMSG, unix.SYS_SENDMMSG, unix.SYS_RECVMSG, unix.SYS_SENDMSG,
		unix.SYS_ACCEPT4, unix.SYS_CONNECT, unix.SYS_SETSOCKOPT, unix.SYS_GETSOCKOPT, unix.SYS_SHUTDOWN,
		unix.SYS_BIND, unix.SYS_LISTEN, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_PIPE2,
		// Descriptors, and files as far as Landlock lets them be opened.
		unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_CREATE1, unix.SYS_EVENTFD2, unix.SYS_PPOLL,
		unix.SYS_READ, unix.SYS_WRITE, unix.SYS_CLOSE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_PWRITE64,
		unix.SYS_LSEEK, unix.SYS_FCNTL, unix.SYS_FSTAT, unix.SYS_NEWFSTATAT, unix.SYS_STATX,
		unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2, unix.SYS_READLINKAT, unix.SYS_GETDENTS64, unix.SYS_OPENAT,
		unix.SYS_FLOCK, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_FTRUNCATE,
		unix.SYS_UNLINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2,
		// The Go runtime, and a C library's threads. They may make any of them at any time.
		unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_SCHED_YIELD, unix.SYS_CLOCK_GETTIME, unix.SYS_GETPID, unix.SYS_GETTID,
		unix.SYS_RT_SIGRETURN, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGACTION, unix.SYS_SIGALTSTACK,
		unix.SYS_MADVISE, unix.SYS_MUNMAP, unix.SYS_MINCORE, unix.SYS_MREMAP, unix.SYS_BRK,
		unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_MEMBARRIER, unix.SYS_SCHED_GETAFFINITY,
		unix.SYS_CLOCK_NANOSLEEP, unix.SYS_GETTIMEOFDAY, unix.SYS_RESTART_SYSCALL, unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
		unix.SYS_GETRANDOM, unix.SYS_UNAME, unix.SYS_GETUID, unix.SYS_GETEUID,
	}
}
