// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
	"github.com/nftnat/nftnat/internal/process"
)

// Socket is a socket that takes packets to a port: it listens, or it is a UDP socket that is not
// connected.
type Socket struct {
	Proto  uint8
	Addr   netip.AddrPort // what it is bound to; an address without specified bits: any
	V6Only bool           // of an any-address of IPv6: it takes no IPv4
	Link   int            // the interface that it is bound to; zero: none
	UID    uint32
	Inode  uint32 // zero: of the kernel
	// Queue is how many connections wait to be accepted or, of UDP, how many bytes to be read. Limit
	// is how many connections may wait.
	Queue, Limit uint32
	Process      *Process // nil: not known
}

// Process is a process that has a socket open.
type Process struct {
	PID     int
	Command string // as in /proc/PID/comm
}

// Full reports whether the queue of connections is full: further ones are not answered
// (sk_acceptq_is_full in include/net/sock.h).
func (s *Socket) Full() bool { return s.Proto == unix.IPPROTO_TCP && s.Queue > s.Limit }

// String returns it about as ss(8) prints it: `tcp 0.0.0.0:8080 users:(("nginx",pid=12))`.
func (s *Socket) String() string {
	text := protoText(s.Proto) + " " + s.Addr.String()
	switch {
	case s.Process != nil:
		text += fmt.Sprintf(" users:((%s,pid=%d))", strconv.Quote(s.Process.Command), s.Process.PID)
	case s.UID != 0:
		text += fmt.Sprintf(" uid:%d", s.UID)
	}
	return text
}

// Of include/uapi/linux/inet_diag.h and include/net/tcp_states.h.
const (
	sockDiagByFamily = 20
	diagRequest      = 56 // struct inet_diag_req_v2
	diagMessage      = 72 // struct inet_diag_msg
	diagSourcePort   = 8  // of the request
	inetDiagV6Only   = 11
	tcpClose         = 7 // a UDP socket that is not connected
	tcpListen        = 10
)

// Sockets lists those that are bound to a port, of both families. It does not look for their
// processes.
func (h *Host) Sockets(proto uint8, port uint16) ([]*Socket, error) {
	return h.sockets(proto, port)
}

// Listeners lists those of all ports.
func (h *Host) Listeners(proto uint8) ([]*Socket, error) { return h.sockets(proto, 0) }

// sockets lists those that are bound to a port; zero: to any.
func (h *Host) sockets(proto uint8, port uint16) ([]*Socket, error) {
	state := uint32(tcpListen)
	if proto != unix.IPPROTO_TCP {
		state = tcpClose
	}
	var list []*Socket
	for _, fam := range []byte{unix.AF_INET, unix.AF_INET6} {
		var of []*Socket
		body := make([]byte, diagRequest)
		body[0], body[1] = fam, proto
		binary.NativeEndian.PutUint32(body[4:], 1<<state)
		binary.BigEndian.PutUint16(body[diagSourcePort:], port) // the kernel sends no others
		err := h.ask(unix.NETLINK_INET_DIAG, sockDiagByFamily, unix.NLM_F_DUMP, body, func() { of = nil }, func(m nlwire.Message) error {
			s, err := parseSocket(m, proto)
			if err == nil && (port == 0 && s.Addr.Port() != 0 || s.Addr.Port() == port) && m.Payload[0] == fam {
				of = append(of, s)
			}
			return err
		})
		if err != nil && !errors.Is(err, unix.ENOENT) { // there is no IPv6, or no module for it
			return nil, h.note(fmt.Errorf("list sockets: %w", err))
		}
		list = append(list, of...)
	}
	return list, nil
}

func parseSocket(m nlwire.Message, proto uint8) (*Socket, error) {
	b := m.Payload
	if len(b) < diagMessage {
		return nil, nlwire.ErrMalformed
	}
	addr := netip.AddrFrom16([16]byte(b[8:24]))
	if b[0] == unix.AF_INET {
		addr = netip.AddrFrom4([4]byte(b[8:12]))
	}
	s := &Socket{
		Proto: proto, Addr: netip.AddrPortFrom(addr, be16(b[4:])), Link: int(u32(b[40:])),
		Queue: u32(b[56:]), UID: u32(b[64:]), Inode: u32(b[68:]),
	}
	if proto == unix.IPPROTO_TCP {
		s.Limit = u32(b[60:])
	}
	a := m.Attrs(diagMessage)
	for a.Next() {
		if a.Type == inetDiagV6Only {
			s.V6Only = u8(a.Payload) != 0
		}
	}
	return s, a.Err
}

// Listener returns the socket that takes a packet to an address and port that comes in by an
// interface; nil: none. It has its Process. Of several that share a port any is returned.
func (h *Host) Listener(proto uint8, to netip.AddrPort, iif int) (*Socket, error) {
	all, err := h.Sockets(proto, to.Port())
	if err != nil {
		return nil, err
	}
	vrf := 0
	if l, err := h.Link(iif); err == nil {
		vrf = l.vrf()
	}
	var best *Socket
	most := -1
	for _, s := range all {
		if score := s.score(to.Addr().Unmap().WithZone(""), iif, vrf); score > most {
			best, most = s, score
		}
	}
	if best != nil {
		h.FindProcess(best)
	}
	return best, nil
}

// score says how well a socket suits a packet; -1: not at all (compute_score in
// net/ipv4/inet_hashtables.c and net/ipv4/udp.c).
func (s *Socket) score(to netip.Addr, iif, vrf int) (score int) {
	own := s.Addr.Addr()
	switch {
	case s.Link != 0 && s.Link != iif && (vrf == 0 || s.Link != vrf):
		return -1
	case own == to, own.Unmap() == to:
		score = 4
	case !own.IsUnspecified(), own.Is4() && to.Is6(), own.Is6() && to.Is4() && s.V6Only:
		return -1
	}
	if s.Link != 0 {
		score += 2
	}
	if own.Is4() == to.Is4() {
		score++
	}
	return score
}

// FindProcess finds the process of a socket. Those of other users are found with the privilege
// (CAP_SYS_PTRACE) alone.
func (h *Host) FindProcess(s *Socket) {
	pid, command, none := process.Find(s.Inode)
	switch {
	case pid != 0:
		s.Process = &Process{PID: pid, Command: command}
	case h.ownSockets()[s.Inode]:
		s.Process = &Process{PID: os.Getpid(), Command: filepath.Base(os.Args[0])}
	case !none && s.Inode != 0:
		_ = h.note(fmt.Errorf("find process of socket %s: %w", s.Addr, unix.EACCES))
	}
}

// Stopped reports whether a process has been stopped by a signal (SIGSTOP, or a debugger): the
// kernel takes connections for it, and it answers none.
func (h *Host) Stopped(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// The name before it, in brackets, may have any characters.
	_, rest, _ := strings.Cut(string(b[bytes.LastIndexByte(b, ')')+1:]), " ")
	return strings.HasPrefix(rest, "T") || strings.HasPrefix(rest, "t")
}

// Owner returns the user and the group by which rules know what a process sends.
func (h *Host) Owner(pid int) (uid, gid uint32, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	var real, effective, saved int // those of files come last
	ids := map[string]*uint32{"Uid:": &uid, "Gid:": &gid}
	for line := range strings.Lines(string(b)) {
		name, rest, _ := strings.Cut(line, "\t")
		id, ok := ids[name]
		if !ok {
			continue
		}
		if _, err := fmt.Sscan(rest, &real, &effective, &saved, id); err != nil {
			return 0, 0, fmt.Errorf("read owner of process %d: %w", pid, err)
		}
	}
	return uid, gid, nil
}

// SocketsOf returns the inodes of the sockets that a process has open. It takes the privilege that
// FindProcess takes, but for those of this process.
func (h *Host) SocketsOf(pid int) (map[uint32]bool, error) {
	if pid == os.Getpid() {
		return h.ownSockets(), nil
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(-1)
	if err := errors.Join(err, d.Close()); err != nil {
		return nil, err
	}
	inodes := map[uint32]bool{}
	for _, n := range names {
		link, err := os.Readlink(dir + "/" + n)
		if err != nil { // it has been closed
			continue
		}
		if number, ok := strings.CutPrefix(link, "socket:["); ok {
			if inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32); err == nil {
				inodes[uint32(inode)] = true
			}
		}
	}
	return inodes, nil
}

// unused is after how many numbers without a file no more are expected.
const unused = 4096

// ownSockets returns the inodes of the sockets of this process, once. A process that may not read
// /proc knows its own files.
func (h *Host) ownSockets() map[uint32]bool {
	if h.held != nil {
		return h.held
	}
	h.held = map[uint32]bool{}
	var st unix.Stat_t
	for fd, missing := 0, 0; missing < unused; fd++ {
		if unix.Fstat(fd, &st) != nil {
			missing++
			continue
		}
		missing = 0
		if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
			h.held[uint32(st.Ino)] = true
		}
	}
	return h.held
}
