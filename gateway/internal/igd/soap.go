// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package igd

import (
	"context"
	"net/netip"
	"strconv"
	"strings"
)

// A fault is an error of an action: its number and its name in the UPnP documents.
type fault struct {
	code int
	text string
}

// The faults, of the UPnP Device Architecture 1.1, 3.2.2, and of WANIPConnection:1 and :2.
func invalidAction() *fault     { return &fault{401, "Invalid Action"} }
func invalidArguments() *fault  { return &fault{402, "Invalid Args"} }
func actionFailed() *fault      { return &fault{501, "Action Failed"} }
func outOfRange() *fault        { return &fault{601, "Argument Value Out of Range"} }
func notAuthorized() *fault     { return &fault{606, "Action not authorized"} }
func indexInvalid() *fault      { return &fault{713, "SpecifiedArrayIndexInvalid"} }
func noSuchEntry() *fault       { return &fault{714, "NoSuchEntryInArray"} }
func wildcardExternal() *fault  { return &fault{716, "WildCardNotPermittedInExtPort"} }
func conflict() *fault          { return &fault{718, "ConflictInMappingEntry"} }
func noMapsAvailable() *fault   { return &fault{728, "NoPortMapsAvailable"} }
func otherMechanisms() *fault   { return &fault{729, "ConflictWithOtherMechanisms"} }
func mappingNotFound() *fault   { return &fault{730, "PortMappingNotFound"} }
func wildcardInternal() *fault  { return &fault{732, "WildCardNotPermittedInIntPort"} }
func inconsistent() *fault      { return &fault{733, "InconsistentParameters"} }
func connectionFailed() *fault  { return &fault{704, "ConnectionSetupFailed"} }
func (f *fault) String() string { return strconv.Itoa(f.code) + " " + f.text }

// absent is whether what was asked about is not there: no refusal, for lists end so.
func (f *fault) absent() bool {
	return f.code == indexInvalid().code || f.code == noSuchEntry().code || f.code == mappingNotFound().code
}

// A call is an action that a client asks for.
type call struct {
	ctx     context.Context
	server  *Server
	client  netip.Addr
	service *service
	version int // of the service, as the client has it
	in      map[string]string
	out     []string // values of the action's out arguments, in their order
	// recorded is whether the refusal is on record, as those of leases are.
	recorded bool
}

// listing is an argument that is a document.
const listing = "NewPortListing"

const (
	envelopeSpace = "http://schemas.xmlsoap.org/soap/envelope/"
	encodingStyle = "http://schemas.xmlsoap.org/soap/encoding/"
)

// parse reads a request (UDA 1.1, 3.2.1): the field SOAPACTION and the body. It returns the
// action, unless there is none of that name, and its namespace as in the request, or the fault.
func (c *call) parse(field, body string) (a *action, space string, f *fault) {
	space, name, ok := strings.Cut(unquote(field), "#")
	if !ok {
		return nil, "", invalidAction()
	}
	if a = c.find(space, name); a == nil {
		return nil, "", invalidAction()
	}
	root, err := parseXML(body)
	if err != nil || root.space != envelopeSpace || root.name != "Envelope" {
		return a, "", invalidArguments()
	}
	b := root.child(envelopeSpace, "Body")
	if b == nil || len(b.children) != 1 {
		return a, "", invalidArguments()
	}
	request := b.children[0]
	if request.space != space || request.name != name {
		return a, "", invalidAction()
	}
	c.in = make(map[string]string, len(a.in))
	for _, arg := range a.in {
		// Others are ignored (UDA 1.1, 2.8), and so is the namespace, which some
		// programs declare by default.
		found := false
		for _, e := range request.children {
			if e.name != arg.name {
				continue
			}
			if found || len(e.children) != 0 {
				return a, "", invalidArguments()
			}
			found = true
			c.in[arg.name] = e.text
		}
		if !found {
			return a, "", invalidArguments()
		}
	}
	return a, space, nil
}

func unquote(s string) string {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		return s[1 : len(s)-1]
	}
	return s
}

// find returns the action of the service in the version that space has.
func (c *call) find(space, name string) *action {
	text, ok := strings.CutPrefix(space, serviceURN+c.service.name+":")
	if !ok || len(text) != 1 || text[0] < '1' || int(text[0]-'0') > c.service.version {
		return nil
	}
	c.version = int(text[0] - '0')
	for i := range c.service.actions {
		if a := &c.service.actions[i]; a.name == name && (c.version > 1 || !a.v2()) {
			return a
		}
	}
	return nil
}

// answer is the document for a call that succeeded.
func (c *call) answer(a *action, space string) string {
	doc := newDocument()
	openEnvelope(doc)
	doc.write(`<u:`, a.name, `Response xmlns:u="`, space, `">`)
	for i, arg := range a.out {
		if arg.name != listing {
			doc.text(arg.name, c.out[i])
			continue
		}
		// As other gateways send it: upnpc reads it in no other way. There is no "]]>" in it.
		doc.write("<"+listing+"><![CDATA[", c.out[i], "]]></"+listing+">")
	}
	doc.write("</u:", a.name, "Response>")
	closeEnvelope(doc)
	return doc.String()
}

// answer is the document for a call that failed.
func (f *fault) answer() string {
	doc := newDocument()
	openEnvelope(doc)
	doc.write(`<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>` +
		`<UPnPError xmlns="urn:schemas-upnp-org:control-1-0">`)
	doc.text("errorCode", strconv.Itoa(f.code))
	doc.text("errorDescription", f.text)
	doc.write("</UPnPError></detail></s:Fault>")
	closeEnvelope(doc)
	return doc.String()
}

func openEnvelope(doc *document) {
	doc.write(`<s:Envelope xmlns:s="` + envelopeSpace + `" s:encodingStyle="` + encodingStyle + `"><s:Body>`)
}

func closeEnvelope(doc *document) { doc.write("</s:Body></s:Envelope>\n") }

// number reads an integer of at most limit.
func (c *call) number(name string, limit uint64) (uint64, *fault) {
	text := strings.Trim(c.in[name], xmlSpace)
	digits := strings.TrimPrefix(text, "-")
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, invalidArguments()
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > limit {
		return 0, outOfRange()
	}
	return n, nil
}

// port reads a number that may be zero.
func (c *call) port(name string) (uint16, *fault) {
	n, f := c.number(name, 65535)
	return uint16(n), f
}

// boolean reads one of the words of the UPnP Device Architecture 1.1, 2.5.
func (c *call) boolean(name string) (bool, *fault) {
	switch strings.ToLower(strings.Trim(c.in[name], xmlSpace)) {
	case "1", "true", "yes":
		return true, nil
	case "0", "false", "no":
		return false, nil
	default:
		return false, invalidArguments()
	}
}
