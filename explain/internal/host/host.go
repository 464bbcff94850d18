// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/netns"
	"github.com/nftnat/nftnat/internal/nlwire"
)

// Host is what a network namespace was like. It is for one goroutine at a time.
type Host struct {
	netNS  int
	file   *os.File // of netNS if it is the Host's own
	buf    []byte
	conns  map[int]*conn // by protocol of netlink
	unread []string

	links     map[int]*Link
	allLinks  bool
	addresses map[int][]*Address // by link; zero: all
	rules     map[bool][]*PolicyRule
	tables    map[tableKey][]*Route
	sysctls   map[string]setting
	counters  map[string]uint64
	held      map[uint32]bool // inodes of sockets of this process
	qdiscs    map[int][]*Qdisc
	filters   map[filterKey][]*TCFilter
	queues    map[uint16]bool  // of netfilter; nil: not read
	xfrm      *[]*XFRMPolicy   // nil: not read
	programs  *[]NFProgram     // nil: not read
	leads     map[int]leads    // by process: see LeadsLocalhost
	peers     map[int32]string // paths of namespaces, by the numbers that this one has for them
}

type tableKey struct {
	is4   bool
	table uint32
}

// Open opens the network namespace of the open descriptor netNS, which must stay open. Zero: that of
// the process.
func Open(netNS int) (*Host, error) {
	h := &Host{
		netNS: netNS, buf: make([]byte, nlwire.LargestDatagram), conns: map[int]*conn{},
		links: map[int]*Link{}, addresses: map[int][]*Address{}, rules: map[bool][]*PolicyRule{},
		tables: map[tableKey][]*Route{}, sysctls: map[string]setting{}, filters: map[filterKey][]*TCFilter{},
	}
	if _, err := h.conn(unix.NETLINK_ROUTE); err != nil {
		return nil, err
	}
	return h, nil
}

// NetNS is the descriptor of the namespace; zero: that of the process.
func (h *Host) NetNS() int { return h.netNS }

// Close closes the sockets.
func (h *Host) Close() error {
	var errs []error
	for _, c := range h.conns {
		errs = append(errs, c.socket.Close())
	}
	if h.file != nil {
		errs = append(errs, h.file.Close())
	}
	return errors.Join(errs...)
}

// Unread lists what could not be read for want of a privilege or of a feature of the kernel, in the
// order in which it was asked for.
func (h *Host) Unread() []string { return h.unread }

// note adds to Unread if err says that something is not permitted or not supported, and returns err.
func (h *Host) note(err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
		if text := err.Error(); !slices.Contains(h.unread, text) {
			h.unread = append(h.unread, text)
		}
	}
	return err
}

// do calls f on a thread in the namespace.
func (h *Host) do(f func() error) error {
	if h.netNS == 0 {
		return f()
	}
	return netns.Do(h.netNS, f)
}

// conn is a netlink socket and the number of its last request.
type conn struct {
	socket *nlwire.Socket
	seq    uint32
}

func (h *Host) conn(protocol int) (*conn, error) {
	if c := h.conns[protocol]; c != nil {
		return c, nil
	}
	s, err := nlwire.Dial(nlwire.Config{Protocol: protocol, NetNS: h.netNS})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	if protocol == unix.NETLINK_ROUTE {
		// The kernel then heeds what a dump asks for. Before Linux 4.20 it sends all.
		_ = s.Control(func(fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
		})
	}
	c := &conn{socket: s}
	h.conns[protocol] = c
	return c, nil
}

// dumpAttempts bounds how often a dump is read again because something changed meanwhile.
const dumpAttempts = 10

var errInterrupted = errors.New("it changes all the time")

// ask sends a request and calls each with the payload of every message that answers it. A dump that
// is interrupted by a change is read again: reset is called before. It may be nil if flags do not
// ask for a dump. The payload is gone with the next ask: each makes none.
func (h *Host) ask(protocol int, typ, flags uint16, body []byte, reset func(), each func(m nlwire.Message) error) error {
	c, err := h.conn(protocol)
	if err != nil {
		return err
	}
	for range dumpAttempts {
		if reset != nil {
			reset()
		}
		if err = h.askOnce(c, typ, flags, body, each); !errors.Is(err, errInterrupted) {
			break
		}
	}
	return err
}

func (h *Host) askOnce(c *conn, typ, flags uint16, body []byte, each func(m nlwire.Message) error) error {
	if flags&unix.NLM_F_DUMP != unix.NLM_F_DUMP {
		flags |= unix.NLM_F_ACK
	}
	c.seq++
	b, at := nlwire.OpenMessage(nil, typ, flags, c.seq)
	if err := c.socket.Send(nlwire.CloseMessage(append(b, body...), at)); err != nil {
		return err
	}
	var failed error
	interrupted := false
	for {
		n, err := c.socket.Receive(h.buf, true)
		if err != nil {
			return err
		}
		msgs := nlwire.Messages{Data: h.buf[:n]}
		for msgs.Next() {
			if msgs.Seq != c.seq {
				continue
			}
			interrupted = interrupted || msgs.Flags&unix.NLM_F_DUMP_INTR != 0
			switch msgs.Type {
			case unix.NLMSG_ERROR, unix.NLMSG_DONE:
				if msgs.Type == unix.NLMSG_DONE && len(msgs.Payload) < 4 {
					return failed
				}
				a, err := msgs.Answer()
				switch {
				case err != nil:
					return err
				case a.Errno != 0:
					return a.Err()
				case failed == nil && interrupted:
					return errInterrupted
				}
				return failed
			default:
				if failed == nil {
					failed = each(msgs.Message)
				}
			}
		}
		if msgs.Err != nil {
			return msgs.Err
		}
	}
}

// Numbers in attributes of rtnetlink are in host byte order.

func appendU32(b []byte, typ uint16, v uint32) []byte {
	return nlwire.AppendAttr(b, typ, binary.NativeEndian.AppendUint32(nil, v)...)
}

func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

func u16(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return binary.NativeEndian.Uint16(b)
}

func u8(b []byte) uint8 {
	if len(b) < 1 {
		return 0
	}
	return b[0]
}

func family(is4 bool) byte {
	if is4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
