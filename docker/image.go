// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"bytes"
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// A process that waits needs no runtime of Go. What it does is a program of some 80 machine
// instructions:
//
//	set the name of the process
//	write "0\n" to the status pipe, and close it
//	wait for a signal or the end of the session
//	at the end of the session: after a pause, connect to the daemon's socket, ask for a session with
//	the same mappings, and wait again; what fails ends that session, and so it tries again
//	at a signal: end the session, wait until the daemon has closed it, up to 5 s, and exit with 0
//
// Signals are blocked all the time, which a program of Go cannot have: the runtime unblocks them when it
// starts. So none is lost, and none ends the process in another way.
//
// Each architecture has an assembler for just this.

// wait says what a waiting process does.
type wait struct {
	// signals is a signalfd(2) of the signals that stop it, which are blocked.
	signals int
	// session is the connection to the daemon.
	session int
	// status is the descriptor that gets "0\n"; negative: there is none.
	status int
	// name is the process's, of at most 15 bytes.
	name string
	// socket is the path of the daemon's socket, of at most 107 bytes. What is sent there for a
	// session is request, and after the answer line.
	socket        string
	request, line []byte
	// pause is before each attempt.
	pause time.Duration
}

const (
	// stopTimeout bounds how long a process that stops waits for the daemon, and attemptTimeout how
	// long one waits for a session.
	stopTimeout    = 5 * time.Second
	attemptTimeout = time.Minute
)

// Where the image is in memory, and how wide its pages may be.
const (
	imageBase = 0x400000
	imagePage = 0x10000
)

// Offsets from the stack pointer. Below them is room for the arguments of calls (MIPS).
const (
	slotSignals = 32 // a struct pollfd
	slotSession = 40
	slotAnswer  = 64
	frameSize   = 2048
)

// arg is an argument of a system call.
type arg struct {
	kind  argKind
	value uint32
}

type argKind uint8

const (
	constant argKind = iota // a number, or an address of the image
	address                 // that of a slot of the stack
	content                 // the word in a slot
)

// label is a place in a program.
type label int

const (
	labelWait label = iota
	labelLost
	labelStop
	labelExit
	labels
)

// assembler writes machine code of one architecture.
type assembler interface {
	// enter makes room on the stack.
	enter()
	call(number uint32, args ...arg)
	// keep writes the result of a call to a slot of the stack.
	keep(offset int)
	// store writes a word to a slot of the stack.
	store(offset int, value uint32)
	// branch goes to a label if the half-word of a slot is zero or, if ifSet, not zero.
	branch(offset int, ifSet bool, to label)
	jump(to label)
	mark(l label)
	// finish sets the targets of branches, and returns the code.
	finish() []byte
}

// architecture is what the image of an architecture needs besides an assembler.
type architecture struct {
	order   binary.ByteOrder
	wide    bool // 64 bits
	machine uint16
	flags   uint32 // of the ELF header
	calls   calls
	stream  uint32 // SOCK_STREAM|SOCK_NONBLOCK
	make    func() assembler
}

// calls are the numbers of system calls.
type calls struct{ read, write, close, socket, connect, shutdown, ppoll, prctl, exit uint32 }

// image returns the ELF file of a waiting process. Nil: there is none for the architecture.
func (w wait) image(goarch string) []byte {
	a, ok := architectureOf(goarch)
	if !ok {
		return nil
	}
	head, program := 52, 32
	if a.wide {
		head, program = 64, 56
	}
	data := newData(a, imageBase+uint32(head+2*program))
	name, ok0 := data.text(w.name+"\x00"), data.text("0\n")
	request, line := data.text(string(w.request)), data.text(string(w.line))
	pause, attempt, timeout := data.time(w.pause), data.time(attemptTimeout), data.time(stopTimeout)
	sockaddr, length := data.unix(w.socket)
	data.align(8)
	entry := data.at()

	c, m := a.calls, a.make()
	number := func(n int) arg { return arg{constant, uint32(n)} }
	session := arg{content, slotSession}
	poll := func(first, n int, timeout uint32) {
		m.call(c.ppoll, arg{address, uint32(first)}, number(n), arg{constant, timeout}, number(0), number(0))
	}
	events := func(events uint32) uint32 { // of a struct pollfd: two half-words
		if a.order == binary.ByteOrder(binary.BigEndian) {
			return events << 16
		}
		return events
	}
	const revents = 6
	answer := func() { // to what was sent, into the stack
		poll(slotSignals, 2, attempt)
		m.branch(slotSignals+revents, true, labelStop)
		m.branch(slotSession+revents, false, labelLost)
		m.call(c.read, session, arg{address, slotAnswer}, number(frameSize-slotAnswer))
	}
	m.enter()
	m.store(slotSignals, uint32(w.signals))
	m.store(slotSignals+4, events(unix.POLLIN))
	m.store(slotSession, uint32(w.session))
	m.store(slotSession+4, events(unix.POLLIN))
	m.call(c.prctl, number(unix.PR_SET_NAME), arg{constant, name})
	if w.status >= 0 {
		m.call(c.write, number(w.status), arg{constant, ok0}, number(2))
		m.call(c.close, number(w.status))
	}
	m.mark(labelWait)
	poll(slotSignals, 2, 0)
	m.branch(slotSignals+revents, true, labelStop)
	m.branch(slotSession+revents, false, labelWait)
	m.mark(labelLost)
	m.call(c.close, session)
	poll(slotSignals, 1, pause)
	m.branch(slotSignals+revents, true, labelExit)
	m.call(c.socket, number(unix.AF_UNIX), arg{constant, a.stream}, number(0))
	m.keep(slotSession)
	m.call(c.connect, session, arg{constant, sockaddr}, number(length))
	m.call(c.write, session, arg{constant, request}, number(len(w.request)))
	answer()
	m.call(c.write, session, arg{constant, line}, number(len(w.line)))
	answer()
	m.jump(labelWait)
	m.mark(labelStop)
	m.call(c.shutdown, session, number(unix.SHUT_WR))
	poll(slotSession, 1, timeout)
	m.mark(labelExit)
	m.call(c.exit, number(0))
	data.b.Write(m.finish())
	return a.link(head, program, entry, data.b.Bytes())
}

// link puts the headers of an executable file before its data and code.
func (a *architecture) link(head, program int, entry uint32, body []byte) []byte {
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			_ = binary.Write(&b, a.order, v) // to memory
		}
	}
	class, encoding := byte(1), byte(1)
	if a.wide {
		class = 2
	}
	if a.order == binary.ByteOrder(binary.BigEndian) {
		encoding = 2
	}
	word := func(v uint32) any { // as wide as an address
		if a.wide {
			return uint64(v)
		}
		return v
	}
	b.Write([]byte{0x7f, 'E', 'L', 'F', class, encoding, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	const executable = 2
	put(uint16(executable), a.machine, uint32(1), word(entry), word(uint32(head)), word(0), a.flags,
		uint16(head), uint16(program), uint16(2), uint16(0), uint16(0), uint16(0))
	const (
		load, stack = 1, 0x6474e551
		x, w, r     = 1, 2, 4
	)
	size := word(uint32(head + 2*program + len(body)))
	if a.wide {
		put(uint32(load), uint32(r|x), word(0), word(imageBase), word(imageBase), size, size, word(imagePage))
		put(uint32(stack), uint32(r|w), word(0), word(0), word(0), word(0), word(0), word(16))
	} else {
		put(uint32(load), word(0), word(imageBase), word(imageBase), size, size, uint32(r|x), word(imagePage))
		put(uint32(stack), word(0), word(0), word(0), word(0), word(0), uint32(r|w), word(16))
	}
	b.Write(body)
	return b.Bytes()
}

// data are the constants of an image, which stand before its code.
type data struct {
	b     bytes.Buffer
	a     *architecture
	start uint32
}

func newData(a *architecture, start uint32) *data { return &data{a: a, start: start} }

func (d *data) at() uint32 { return d.start + uint32(d.b.Len()) }

func (d *data) align(n uint32) {
	for d.at()%n != 0 {
		d.b.WriteByte(0)
	}
}

func (d *data) text(s string) uint32 {
	at := d.at()
	d.b.WriteString(s)
	return at
}

// unix is a struct sockaddr_un, and its length.
func (d *data) unix(path string) (at uint32, length int) {
	d.align(8)
	at = d.at()
	_ = binary.Write(&d.b, d.a.order, uint16(unix.AF_UNIX)) // to memory
	d.text(path + "\x00")
	return at, 2 + len(path) + 1
}

// time is a struct timespec of the machine's words.
func (d *data) time(t time.Duration) uint32 {
	d.align(8)
	at := d.at()
	for _, v := range []int64{int64(t / time.Second), int64(t % time.Second)} {
		if d.a.wide {
			_ = binary.Write(&d.b, d.a.order, v) // to memory
		} else {
			_ = binary.Write(&d.b, d.a.order, int32(v))
		}
	}
	return at
}
