// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// Code is the kind of an error, for programs.
type Code string

// The codes. A later version may add more.
const (
	CodePermission  Code = "permission"  // fs.ErrPermission
	CodeInvalid     Code = "invalid"     // nat.ErrInvalid: nothing has changed
	CodeConflict    Code = "conflict"    // nat.ErrConflict: a frontend, a name or an address is taken
	CodeOwned       Code = "owned"       // nat.ErrOwned: another engine has the table
	CodeExhausted   Code = "exhausted"   // nat.ErrExhausted: no free port or address is left
	CodeNotFound    Code = "not-found"   // nat.ErrNotFound: it is not published, or not there
	CodeUnsupported Code = "unsupported" // errors.ErrUnsupported: the server does not have this
	CodeTimeout     Code = "timeout"     // os.ErrDeadlineExceeded: the request came too slowly
	CodeBusy        Code = "busy"        // ErrBusy: try again later
	CodeClosed      Code = "closed"      // nat.ErrClosed: the server is stopping
	CodeInternal    Code = "internal"    // anything else
)

// ErrBusy means that a server has reached a limit.
var ErrBusy = errors.New("the server is busy")

// Problem is the document of an error (RFC 9457). It is also the error that a [Client]
// returns for it.
type Problem struct {
	// Type is always "about:blank": the problem is told by status and code.
	Type string `json:"type"`
	// Title is the HTTP status in words.
	Title string `json:"title"`
	// Status is the HTTP status.
	Status int `json:"status"`
	// Detail is the text of the error: one line, without a full stop.
	Detail string `json:"detail"`
	// Code is what to branch on.
	Code Code `json:"code"`
	// Have is the published mapping that conflicts, if Code is CodeConflict and it is known,
	// and Want the one that was asked for, whose Port may be zero.
	Have *Mapping `json:"have,omitempty"`
	Want *Mapping `json:"want,omitempty"`
	// Taken is what is in use, if Code is CodeConflict and it is not a frontend.
	Taken *Taken `json:"taken,omitempty"`
	// Held is the socket in the way, if Code is CodeConflict and another process, or the kernel,
	// holds the port.
	Held *Held `json:"held,omitempty"`
	// Most is how many ranges of one address there may be, of a protocol and family, if Want would
	// be one too many. Zero: that is not the cause.
	Most int `json:"most,omitempty"`
	// Near are mappings that were perhaps meant, if Code is CodeNotFound and a packet was to be
	// explained.
	Near []NearMapping `json:"near,omitempty"`
}

// Taken says that a name, an address or a prefix is in use: an [nat.TakenError].
type Taken struct {
	// What was requested.
	What string `json:"what"`
	// Holder has it; empty: something of the same name.
	Holder string `json:"holder"`
}

// Held is the socket of another process, or of the kernel, that holds a port: an [nat.HeldError].
type Held struct {
	// Proto is "tcp" or "udp", Address what the socket is bound to, and Peer what it is
	// connected to, if it is.
	Proto   string `json:"proto"`
	Address string `json:"address"`
	Peer    string `json:"peer,omitempty"`
	// Inode is that of the socket; links "socket:[INODE]" in /proc/PID/fd show which processes
	// have it. Zero: none has it any more. UID is the user who made it.
	Inode uint32 `json:"inode"`
	UID   uint32 `json:"uid"`
	// PID and Command are of a process that has the socket. Absent: the server may not look.
	PID     int    `json:"pid,omitempty"`
	Command string `json:"command,omitempty"`
	// Kernel is true if the kernel itself has the socket, and Purpose what for, as far as it is
	// known; a guess begins with "perhaps".
	Kernel  bool   `json:"kernel,omitempty"`
	Purpose string `json:"purpose,omitempty"`
	// Ended is true for a connection that ended less than a minute ago, and Ephemeral for a
	// port that the kernel gave to a client: it is soon free again.
	Ended     bool `json:"ended,omitempty"`
	Ephemeral bool `json:"ephemeral,omitempty"`
	// Free is an address of this host where the port is free, if it is that of resolvers, 53.
	Free string `json:"free,omitempty"`
}

// Error returns the detail.
func (p *Problem) Error() string { return p.Detail }

// Unwrap returns the error of the code: an [*nat.ConflictError], [*nat.TakenError],
// [*nat.HeldError] or [*nat.RangesError] if the document has its fields; nil for CodeInternal and unknown codes.
func (p *Problem) Unwrap() error {
	if p.Code == CodeConflict {
		if err := p.conflict(); err != nil {
			return err
		}
	}
	for _, k := range kinds() {
		if k.code == p.Code {
			return k.err
		}
	}
	return nil
}

// conflict returns the error that Taken, Held, or Want with Have or Most describe; nil: none.
func (p *Problem) conflict() error {
	if p.Taken != nil {
		return &nat.TakenError{What: p.Taken.What, Holder: p.Taken.Holder}
	}
	if h := p.Held; h != nil {
		proto, protoErr := nat.ParseProto(h.Proto)
		at, addrErr := netip.ParseAddrPort(h.Address)
		if protoErr == nil && addrErr == nil {
			// Those that are absent, or wrong, stay zero.
			peer, _ := netip.ParseAddrPort(h.Peer)
			free, _ := netip.ParseAddr(h.Free)
			return &nat.HeldError{
				Want: nat.Mapping{Proto: proto}, Address: at, Peer: peer, Inode: h.Inode, UID: h.UID, PID: h.PID, Command: h.Command,
				Kernel: h.Kernel, Purpose: h.Purpose, Ended: h.Ended, Ephemeral: h.Ephemeral, Free: free,
			}
		}
	}
	if p.Want == nil {
		return nil
	}
	want, err := p.Want.mapping()
	switch {
	case err != nil:
	case p.Most != 0:
		return &nat.RangesError{Want: want, Most: p.Most}
	case p.Have != nil:
		if have, err := p.Have.mapping(); err == nil {
			return &nat.ConflictError{Have: have, Want: want}
		}
	}
	return nil
}

// kind is an error with its code and status.
type kind struct {
	err  error
	code Code
	// status is the HTTP status for an error of the engine; zero: an error of the engine that
	// is err has no code of its own, and only the server itself uses this one.
	status int
}

// kinds are all kinds. For an error of several kinds the first is used, as for the exit status
// of the command line.
func kinds() []kind {
	return []kind{
		{fs.ErrPermission, CodePermission, http.StatusForbidden},
		{nat.ErrInvalid, CodeInvalid, http.StatusUnprocessableEntity},
		{nat.ErrConflict, CodeConflict, http.StatusConflict},
		{nat.ErrOwned, CodeOwned, http.StatusConflict},
		{nat.ErrExhausted, CodeExhausted, http.StatusConflict},
		{nat.ErrNotFound, CodeNotFound, http.StatusNotFound},
		{nat.ErrClosed, CodeClosed, http.StatusServiceUnavailable},
		{errors.ErrUnsupported, CodeUnsupported, 0},
		{os.ErrDeadlineExceeded, CodeTimeout, 0},
		{ErrBusy, CodeBusy, 0},
	}
}

// Codes returns all codes.
func Codes() []Code {
	var codes []Code
	for _, k := range kinds() {
		codes = append(codes, k.code)
	}
	return append(codes, CodeInternal)
}

// problem is an error of the request itself.
func problem(status int, code Code, detail string) *Problem {
	return &Problem{
		Type: "about:blank", Title: http.StatusText(status), Status: status,
		Detail: strings.ReplaceAll(detail, "\n", "; "), Code: code, // the lines of errors.Join
	}
}

// problemOf is the document of an error.
func problemOf(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	p = problem(http.StatusInternalServerError, CodeInternal, err.Error())
	for _, k := range kinds() {
		if k.status != 0 && errors.Is(err, k.err) {
			p = problem(k.status, k.code, err.Error())
			break
		}
	}
	if p.Code != CodeConflict {
		return p
	}
	var (
		conflict *nat.ConflictError
		taken    *nat.TakenError
		held     *nat.HeldError
		many     *nat.RangesError
	)
	if errors.As(err, &conflict) {
		have, want := mapping(conflict.Have), mapping(conflict.Want)
		p.Have, p.Want = &have, &want
	}
	if errors.As(err, &many) {
		want := mapping(many.Want)
		p.Want, p.Most = &want, many.Most
	}
	if errors.As(err, &taken) {
		p.Taken = &Taken{What: taken.What, Holder: taken.Holder}
	}
	if errors.As(err, &held) && held.Address.IsValid() {
		p.Held = &Held{
			Proto: held.Want.Proto.String(), Address: held.Address.String(),
			Inode: held.Inode, UID: held.UID, PID: held.PID, Command: held.Command,
			Kernel: held.Kernel, Purpose: held.Purpose, Ended: held.Ended, Ephemeral: held.Ephemeral,
		}
		if held.Peer.IsValid() {
			p.Held.Peer = held.Peer.String()
		}
		if held.Free.IsValid() {
			p.Held.Free = held.Free.String()
		}
	}
	return p
}
