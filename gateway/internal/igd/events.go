// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package igd

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The bounds of subscriptions (UDA 1.1, 4).
const (
	maxSubscriptions = 64
	maxOfClient      = 12
	maxTimeout       = 30 * time.Minute
	minTimeout       = time.Minute
	// moderation is the time between two events of a subscription at least.
	moderation  = 2 * time.Second
	sendTimeout = 3 * time.Second
	maxCallback = 512 // bytes of the path
)

// A publisher sends the values of evented variables to subscribers.
type publisher struct {
	values func(*service) []property // of now

	mu            sync.Mutex
	subscriptions map[string]*subscription
	more          chan struct{} // has one if there is a new subscription
}

type property struct{ name, value string }

// A subscription is for the events of a service.
type subscription struct {
	sid      string
	service  *service
	callback netip.AddrPort
	path     string
	local    netip.Addr // that was asked, and from which events are sent
	expires  time.Time
	sent     []property // nil: nothing yet
	seq      uint32
	busy     bool
}

func newPublisher(values func(*service) []property) *publisher {
	return &publisher{values: values, subscriptions: make(map[string]*subscription), more: make(chan struct{}, 1)}
}

// serve answers SUBSCRIBE and UNSUBSCRIBE (UDA 1.1, 4.1).
func (p *publisher) serve(w http.ResponseWriter, r *http.Request, s *service, client, local netip.Addr) {
	sid := r.Header.Get("SID")
	callback := r.Header.Get("CALLBACK")
	nt := r.Header.Get("NT")
	if sid != "" && (callback != "" || nt != "") {
		http.Error(w, "SID contradicts CALLBACK and NT", http.StatusBadRequest)
		return
	}
	if r.Method == "UNSUBSCRIBE" {
		if !p.remove(sid, s, client) {
			http.Error(w, "no such subscription", http.StatusPreconditionFailed)
		}
		return
	}
	timeout := parseTimeout(r.Header.Get("TIMEOUT"))
	if sid != "" {
		if !p.renew(sid, s, client, timeout) {
			http.Error(w, "no such subscription", http.StatusPreconditionFailed)
			return
		}
		accepted(w, sid, timeout)
		return
	}
	to, path, ok := parseCallback(callback, client)
	if nt != "upnp:event" || !ok {
		http.Error(w, "the callback is not an address of yours", http.StatusPreconditionFailed)
		return
	}
	sub := &subscription{sid: newSID(), service: s, callback: to, path: path, local: local, expires: time.Now().Add(timeout), busy: true}
	if !p.add(sub) {
		http.Error(w, "too many subscriptions", http.StatusServiceUnavailable)
		return
	}
	accepted(w, sub.sid, timeout)
	// The first event comes after the answer, without which the subscriber does not know it.
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush() // of a client that has gone
	p.begin(sub)
}

func accepted(w http.ResponseWriter, sid string, timeout time.Duration) {
	w.Header().Set("SID", sid)
	w.Header().Set("TIMEOUT", "Second-"+strconv.Itoa(int(timeout/time.Second)))
}

func newSID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return "uuid:" + uuid(b)
}

// parseTimeout reads Second-1800. What is not that is the longest.
func parseTimeout(s string) time.Duration {
	digits, ok := strings.CutPrefix(strings.ToLower(s), "second-")
	n, err := strconv.ParseUint(digits, 10, 32)
	if !ok || err != nil {
		return maxTimeout
	}
	return min(max(time.Duration(n)*time.Second, minTimeout), maxTimeout)
}

// parseCallback reads <http://192.0.2.2:80/path>, perhaps several. All have to be of the client's
// address: events for others would be requests that the gateway makes for whoever asks.
func parseCallback(s string, client netip.Addr) (to netip.AddrPort, path string, ok bool) {
	for s = strings.Trim(s, xmlSpace); s != ""; s = strings.TrimLeft(s, xmlSpace) {
		text, rest, found := strings.Cut(strings.TrimPrefix(s, "<"), ">")
		if !found || s[0] != '<' {
			return to, "", false
		}
		s = rest
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" || u.User != nil || len(u.RequestURI()) > maxCallback {
			return to, "", false
		}
		host, port := u.Hostname(), u.Port()
		if port == "" {
			port = "80"
		}
		a, err := netip.ParseAddr(host)
		n, bad := strconv.ParseUint(port, 10, 16)
		if err != nil || bad != nil || n == 0 || a.WithZone("") != client.WithZone("") {
			return to, "", false
		}
		if !ok {
			to, path, ok = netip.AddrPortFrom(client, uint16(n)), u.RequestURI(), true
		}
	}
	return to, path, ok
}

func (p *publisher) add(sub *subscription) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expire(time.Now())
	n := 0
	for _, other := range p.subscriptions {
		if other.callback.Addr() == sub.callback.Addr() {
			n++
		}
	}
	if len(p.subscriptions) >= maxSubscriptions || n >= maxOfClient {
		return false
	}
	p.subscriptions[sub.sid] = sub
	return true
}

// begin lets events be sent to a subscriber.
func (p *publisher) begin(sub *subscription) {
	p.mu.Lock()
	defer p.mu.Unlock()
	sub.busy = false
	select {
	case p.more <- struct{}{}:
	default:
	}
}

// find returns the subscription that a client may change, or nil.
func (p *publisher) find(sid string, s *service, client netip.Addr) *subscription {
	p.expire(time.Now())
	if sub := p.subscriptions[sid]; sub != nil && sub.service == s && sub.callback.Addr() == client {
		return sub
	}
	return nil
}

func (p *publisher) renew(sid string, s *service, client netip.Addr, timeout time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	sub := p.find(sid, s, client)
	if sub == nil {
		return false
	}
	sub.expires = time.Now().Add(timeout)
	return true
}

func (p *publisher) remove(sid string, s *service, client netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.find(sid, s, client) == nil {
		return false
	}
	delete(p.subscriptions, sid)
	return true
}

func (p *publisher) expire(now time.Time) {
	for sid, sub := range p.subscriptions {
		if !sub.expires.After(now) {
			delete(p.subscriptions, sid)
		}
	}
}

// run sends events until ctx is done. changed gives a channel that is closed when a value may be
// another one; values are compared every few seconds besides, while there are subscriptions.
func (p *publisher) run(ctx context.Context, changed func() <-chan struct{}) error {
	var sending sync.WaitGroup
	defer sending.Wait()
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		c := changed()
		if p.publish(ctx, &sending) {
			tick.Reset(moderation)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.more:
		case <-tick.C:
		case <-c:
		}
	}
}

// publish sends what subscribers do not have yet, and returns whether there are any.
func (p *publisher) publish(ctx context.Context, sending *sync.WaitGroup) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expire(time.Now())
	values := make(map[*service][]property)
	for _, sub := range p.subscriptions {
		if sub.busy {
			continue
		}
		all, ok := values[sub.service]
		if !ok {
			all = p.values(sub.service)
			values[sub.service] = all
		}
		changed := sub.changed(all)
		if len(changed) == 0 && sub.sent != nil {
			continue
		}
		sub.sent, sub.busy = all, true
		event := sub.event(changed)
		sub.count()
		sending.Go(func() {
			// Who does not take an event gets the next one (UDA 1.1, 4.3.2).
			_ = send(ctx, sub.local, sub.callback, event)
			p.mu.Lock()
			defer p.mu.Unlock()
			sub.busy = false
		})
	}
	return len(p.subscriptions) != 0
}

// changed returns what differs from what was sent.
func (s *subscription) changed(all []property) (changed []property) {
	for i, v := range all {
		if s.sent == nil || s.sent[i] != v {
			changed = append(changed, v)
		}
	}
	return changed
}

// count goes from 4294967295 to 1 (UDA 1.1, 4.3.1).
func (s *subscription) count() {
	if s.seq++; s.seq == 0 {
		s.seq = 1
	}
}

// event is a NOTIFY with everything before and in its body.
func (s *subscription) event(changed []property) []byte {
	doc := newDocument()
	doc.write(`<e:propertyset xmlns:e="urn:schemas-upnp-org:event-1-0">`)
	for _, v := range changed {
		doc.open("e:property")
		doc.text(v.name, v.value)
		doc.close("e:property")
	}
	doc.write("</e:propertyset>\n")
	return append(message("NOTIFY "+s.path+" HTTP/1.1",
		"HOST", netip.AddrPortFrom(s.callback.Addr().WithZone(""), s.callback.Port()).String(),
		"CONTENT-TYPE", contentType,
		"CONTENT-LENGTH", strconv.Itoa(doc.Len()),
		"NT", "upnp:event",
		"NTS", "upnp:propchange",
		"SID", s.sid,
		"SEQ", strconv.FormatUint(uint64(s.seq), 10),
		"CONNECTION", "close",
	), doc.String()...)
}

// send sends an event and waits for the beginning of the answer, whatever that is.
func send(ctx context.Context, local netip.Addr, to netip.AddrPort, event []byte) (err error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))}
	conn, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return fmt.Errorf("send event: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write(event); err != nil {
		return fmt.Errorf("send event: %w", err)
	}
	if _, err := bufio.NewReaderSize(io.LimitReader(conn, 512), 16).ReadSlice('\n'); err != nil {
		return fmt.Errorf("send event: read the answer: %w", err)
	}
	return nil
}
