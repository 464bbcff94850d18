// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// operate does what an intruder, or the process itself, might want to. What is named before
// a colon is done, what comes after it is to tell one from another.
func operate(name string, args []string) error {
	switch name {
	case "start":
		p, err := os.StartProcess("/proc/self/exe", []string{"true"}, &os.ProcAttr{Env: []string{envChild + "=?"}})
		if err == nil {
			_, err = p.Wait()
		}
		return err
	case "map executable":
		b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err == nil {
			err = unix.Munmap(b)
		}
		return err
	case "protect executable":
		b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
	case "connect abstract":
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Connect(fd, &unix.SockaddrUnix{Name: args[0]})
	case "bind low port":
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrInet4{Port: 80})
	case "save":
		path := args[0]
		f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if _, err = f.WriteString("saved"); err == nil {
			err = f.Sync()
		}
		if err != nil {
			return err
		}
		return os.Rename(path+".new", path)
	case "look into":
		_, err := os.Readlink("/proc/" + args[0] + "/fd/0")
		return err
	}
	return operateByKind(name, args)
}

// operateByKind is for those of which there are several.
func operateByKind(name string, args []string) error {
	kind := args[0]
	switch kind {
	case "read", "write", "create", "list":
		flags := map[string]int{"read": os.O_RDONLY, "list": os.O_RDONLY, "write": os.O_WRONLY, "create": os.O_CREATE | os.O_WRONLY}[kind]
		f, err := os.OpenFile(args[1], flags, 0o600)
		if err == nil {
			err = f.Close()
		}
		return err
	case "remove":
		return unix.Unlink(args[1])
	case "make socket":
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: args[1]}), unix.Close(fd))
	case "stat":
		_, err := os.Stat(args[1])
		return err
	case "socket":
		family, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Close(fd)
		}
		return err
	case "call": // which fails with EPERM before the kernel looks at its arguments
		var n [7]uintptr
		for i, arg := range args[1:] {
			v, err := strconv.ParseInt(arg, 0, 64)
			if err != nil {
				return err
			}
			n[i] = uintptr(v)
		}
		if _, _, e := unix.Syscall6(n[0], n[1], n[2], n[3], n[4], n[5], n[6]); e != 0 {
			return e
		}
		return nil
	}
	return fmt.Errorf("there is no operation %q", name)
}
