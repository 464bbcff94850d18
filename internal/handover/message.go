// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Kind is what a message is.
type Kind uint8

// The kinds of messages, in the order of a handover. Daemons of other versions know them by
// their numbers.
const (
	Begin     Kind = iota + 1 // the receiver asks for the sockets; Text is its Version
	Lend                      // the sender sends Sockets
	EndOfList                 // the sender has sent all; Text is how many
	Ready                     // the receiver could serve
	Commit                    // the receiver may serve
	Committed                 // the receiver serves
	Released                  // the sender does not serve any more
	Abort                     // the handover is over; Text is why
)

// Version is the text of Begin. A sender of another version aborts.
const Version = "nftnat handover 1"

// Message is one of a handover.
type Message struct {
	Kind Kind
	Text string // one line
	// Sockets are of Lend alone. The receiver owns their descriptors; the sender keeps its
	// own.
	Sockets []Socket
}

// Socket is a descriptor and its purpose.
type Socket struct {
	Name string // one line, not empty
	FD   int
}

const (
	// headerSize is: the kind, the number of descriptors, two bytes of zero, the length of
	// what follows.
	headerSize = 8
	// MaxSockets is how many descriptors a message has at most: the kernel's SCM_MAX_FD is
	// 253 (include/net/scm.h).
	MaxSockets = 250
	// maxBody bounds what follows the header, in bytes.
	maxBody = 64 << 10
	// maxName bounds the name of a socket, so that a message of the most there can be is
	// less than maxBody.
	maxName = 255
)

// ErrMalformed is wrapped by errors about what no peer of this version sends.
var ErrMalformed = errors.New("malformed message of a handover")

func (k Kind) String() string {
	names := [...]string{
		Begin: "begin", Lend: "lend", EndOfList: "end of list", Ready: "ready",
		Commit: "commit", Committed: "committed", Released: "released", Abort: "abort",
	}
	if k == 0 || int(k) >= len(names) {
		return fmt.Sprintf("Kind(%d)", uint8(k))
	}
	return names[k]
}

// encode returns a message without its descriptors.
func (m Message) encode() ([]byte, error) {
	body := m.Text
	if m.Kind == Lend {
		names := make([]string, len(m.Sockets))
		for i, s := range m.Sockets {
			names[i] = s.Name
		}
		body = strings.Join(names, "\n")
	}
	b := make([]byte, headerSize, headerSize+len(body))
	b[0], b[1] = byte(m.Kind), byte(min(len(m.Sockets), 255))
	binary.BigEndian.PutUint32(b[4:], uint32(len(body)))
	// The receiver's checks, so that nothing is sent that it would refuse.
	h, err := decodeHeader([headerSize]byte(b))
	if err == nil {
		_, err = h.decode([]byte(body), make([]int, len(m.Sockets)))
	}
	if err != nil {
		return nil, fmt.Errorf("send %s: %w", m.Kind, err)
	}
	return append(b, body...), nil
}

// header is the beginning of a message.
type header struct {
	kind    Kind
	sockets int
	body    int
}

func decodeHeader(b [headerSize]byte) (header, error) {
	h := header{kind: Kind(b[0]), sockets: int(b[1])}
	body := binary.BigEndian.Uint32(b[4:])
	switch {
	case h.kind < Begin || h.kind > Abort:
		return header{}, fmt.Errorf("%w: there is no kind %d", ErrMalformed, b[0])
	case b[2] != 0 || b[3] != 0:
		return header{}, fmt.Errorf("%w: its header is % x", ErrMalformed, b)
	case h.kind == Lend && (h.sockets == 0 || h.sockets > MaxSockets), h.kind != Lend && h.sockets != 0:
		return header{}, fmt.Errorf("%w: %s with %d sockets", ErrMalformed, h.kind, h.sockets)
	case body > maxBody:
		return header{}, fmt.Errorf("%w: %s of %d bytes", ErrMalformed, h.kind, body)
	}
	h.body = int(body)
	return h, nil
}

// decode makes a message of its body and its descriptors, which are as many as the header
// says.
func (h header) decode(body []byte, fds []int) (Message, error) {
	if h.kind != Lend {
		if strings.Contains(string(body), "\n") {
			return Message{}, fmt.Errorf("%w: %s of several lines", ErrMalformed, h.kind)
		}
		return Message{Kind: h.kind, Text: string(body)}, nil
	}
	names := strings.Split(string(body), "\n")
	if len(names) != len(fds) {
		return Message{}, fmt.Errorf("%w: %d names for %d sockets", ErrMalformed, len(names), len(fds))
	}
	m := Message{Kind: h.kind, Sockets: make([]Socket, len(fds))}
	for i, name := range names {
		if name == "" || len(name) > maxName {
			return Message{}, fmt.Errorf("%w: the name of a socket has %d bytes", ErrMalformed, len(name))
		}
		m.Sockets[i] = Socket{Name: name, FD: fds[i]}
	}
	return m, nil
}
