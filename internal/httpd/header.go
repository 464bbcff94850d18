// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package httpd

import (
	"bytes"
	"net/http"
	"strings"
)

// headerEnd returns where the header ends that b begins with: after its empty line; -1: not in b.
// There is none whose last line ends before from.
func headerEnd(b []byte, from int) int {
	for i := from; ; {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return -1
		}
		i += n + 1
		switch rest := b[i:]; {
		case bytes.HasPrefix(rest, []byte("\n")):
			return i + 1
		case bytes.HasPrefix(rest, []byte("\r\n")):
			return i + 2
		}
	}
}

// facts are what http.ReadRequest does not tell of a header.
type facts struct {
	fault   *fault
	hosts   int  // fields
	encoded bool // it has a Transfer-Encoding
	expects bool // it has an Expect
}

// check refuses a header that two programs may read in two ways (RFC 9112 sections 2.2, 5 and 6):
// as where its body ends and the next request begins, and for which host it is. http.ReadRequest
// is more tolerant.
func check(header []byte) (f facts) {
	bad := func(detail string) facts {
		f.fault = &fault{http.StatusBadRequest, detail}
		return f
	}
	lengths := 0
	_, rest, _ := bytes.Cut(header, []byte("\n")) // the request line is no field
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) == 0 {
			break
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || !valid(name, token) { // also if the line goes on with the one before
			return bad("invalid header name")
		}
		if !printable(value) {
			return bad("invalid header value")
		}
		switch value = bytes.Trim(value, " \t"); {
		case is(name, "host"):
			if f.hosts++; f.hosts > 1 {
				return bad("too many Host headers")
			}
			if !valid(value, hostByte) && len(value) != 0 {
				return bad("malformed Host header")
			}
		case is(name, "content-length"):
			if lengths++; lengths > 1 || f.encoded {
				return bad("the length is given twice")
			}
		case is(name, "transfer-encoding"):
			if !is(value, "chunked") {
				f.fault = &fault{http.StatusNotImplemented, "unsupported transfer encoding"}
				return f
			}
			if f.encoded || lengths > 0 {
				return bad("the length is given twice")
			}
			f.encoded = true
		case is(name, "expect"):
			f.expects = len(value) != 0
		}
	}
	return f
}

// is compares in any case.
func is(b []byte, lower string) bool {
	return len(b) == len(lower) && strings.EqualFold(string(b), lower)
}

// valid reports whether there are bytes, and all are of a kind.
func valid(b []byte, kind func(byte) bool) bool {
	for _, c := range b {
		if !kind(c) {
			return false
		}
	}
	return len(b) != 0
}

func alphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// token are the bytes of a name (RFC 9110 section 5.6.2).
func token(c byte) bool { return alphanumeric(c) || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0 }

// hostByte are the bytes of a host and its port (RFC 3986 section 3.2.2).
func hostByte(c byte) bool {
	return alphanumeric(c) || strings.IndexByte("!$%&'()*+,-.:;=[]_~", c) >= 0
}

// printable reports whether no byte is a control character but a tab.
func printable(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// expectsContinue reports whether a client waits for "100 Continue" before it sends its body.
func expectsContinue(r *http.Request) bool {
	return strings.EqualFold(strings.TrimSpace(r.Header.Get("Expect")), "100-continue")
}
