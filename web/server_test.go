// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/nat"
)

const token = "0123456789abcdef"

// served is a page that is served.
type served struct {
	*testing.T
	*fake
	base string
}

// serve serves the page of a daemon until the test ends.
func serve(t *testing.T, f *fake, o Options) *served {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	o.Daemon, o.Gateway, o.Listener = f, f, l
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return &served{t, f, "http://" + l.Addr().String()}
}

// do sends a request with fields, and returns the answer and its body.
func (s *served) do(method, path, body string, fields ...string) (*http.Response, string) {
	s.Helper()
	r, err := http.NewRequestWithContext(s.Context(), method, s.base+path, strings.NewReader(body))
	require.NoError(s, err)
	for i := 0; i < len(fields); i += 2 {
		if fields[i] == "Host" {
			r.Host = fields[i+1]
		}
		r.Header.Set(fields[i], fields[i+1])
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	require.NoError(s, err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	require.NoError(s, err)
	return resp, string(text)
}

func (s *served) get(path string, fields ...string) (*http.Response, string) {
	s.Helper()
	return s.do(http.MethodGet, path, "", fields...)
}

// The page has what it is to have, and needs nothing else.
func TestPage(t *testing.T) {
	f := &fake{mappings: []nat.Mapping{mapping(t, "8080->172.17.0.2:80", "web"), mapping(t, "53->172.17.0.2:53/udp", "igd:Console")}}
	f.connections = []nat.Connections{{Mapping: f.mappings[0], Translated: 3}}
	f.diagnosis = report.Diagnosis{Mappings: 2, Findings: []report.Finding{{Severity: report.Stops, Thing: "table inet corpwall", Count: 1, Mappings: f.mappings[:1]}}}
	f.gateway = &api.Gateway{Leases: []api.GatewayLease{{Kind: "igd", Client: "192.168.1.9", Proto: "udp", Internal: 53, External: 53, Description: "Console"}}, Refusals: []api.GatewayRefusal{{Kind: "pcp", Client: "192.168.1.8", Reason: "quota", Count: 4}}}
	s := serve(t, f, Options{Title: "router"})
	resp, page := s.get("/")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	for _, want := range []string{"tcp 8080", "172.17.0.2:80", "<bdi>web</bdi>", "UPnP IGD", "table inet corpwall", "/explain?frontend=8080&amp;proto=tcp", "192.168.1.9:53", "quota", "<strong>stopped</strong>", "3 TCP connections"} {
		require.Contains(t, page, want)
	}
	require.NotContains(t, page, "http://")
	require.NotContains(t, page, "https://")
	require.NotContains(t, page, " style=")
	require.NotContains(t, page, "Unlock", "nothing can be changed")
	require.Equal(t, "text/html; charset=utf-8", resp.Header.Get("Content-Type"))
	require.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"))
	policy := resp.Header.Get("Content-Security-Policy")
	require.Contains(t, policy, "default-src 'none'")
	require.Contains(t, policy, "frame-ancestors 'none'")
	require.NotContains(t, policy, "unsafe")

	_, text := s.get("/status.json")
	var doc struct {
		Now      time.Time
		Mappings []struct {
			Proto, Name, Kind, State string
			Connections, Hits        int
		}
		Gateway api.Gateway
		History struct{ TCP []int }
	}
	require.NoError(t, json.Unmarshal([]byte(text), &doc))
	require.Len(t, doc.Mappings, 2)
	require.Equal(t, "operator", doc.Mappings[0].Kind)
	require.Equal(t, 3, doc.Mappings[0].Connections)
	require.Equal(t, 3, doc.Mappings[0].Hits)
	require.Equal(t, "stopped", doc.Mappings[0].State)
	require.Equal(t, "igd", doc.Mappings[1].Kind)
	require.Len(t, doc.History.TCP, slots)
	require.Equal(t, 3, doc.History.TCP[slots-1])
	require.Len(t, doc.Gateway.Leases, 1)
	require.WithinDuration(t, time.Now(), doc.Now, time.Minute)
}

// HEAD is GET without the page, and who has the page gets it again only when it has changed.
func TestHeadAndNotModified(t *testing.T) {
	f := &fake{}
	s := serve(t, f, Options{})
	for _, path := range []string{"/", "/status.json"} {
		var tag string
		require.Eventually(t, func() bool { // what is found at the start changes the page
			resp, _ := s.get(path)
			same := resp.Header.Get("Etag") == tag
			tag = resp.Header.Get("Etag")
			return same
		}, 10*time.Second, 100*time.Millisecond)
		resp, body := s.get(path)
		require.Equal(t, tag, resp.Header.Get("Etag"))
		head, none := s.do(http.MethodHead, path, "")
		require.Equal(t, http.StatusOK, head.StatusCode)
		require.Empty(t, none)
		require.Equal(t, int64(len(body)), head.ContentLength)
		resp, none = s.get(path, "If-None-Match", `"other", `+tag)
		require.Equal(t, http.StatusNotModified, resp.StatusCode)
		require.Empty(t, none)
		resp, _ = s.get(path, "If-None-Match", `"other"`)
		require.Equal(t, http.StatusOK, resp.StatusCode)
		f.set(func() { f.mappings = append(f.mappings, many(len(f.mappings) + 1)[len(f.mappings)]) })
		resp, _ = s.get(path, "If-None-Match", tag)
		require.Equal(t, http.StatusOK, resp.StatusCode)
	}
}

// Names that lead here and are not this host's are refused on all paths, before anything else.
func TestHost(t *testing.T) {
	s := serve(t, &fake{}, Options{Names: []string{"Router.lan"}})
	port := s.base[strings.LastIndex(s.base, ":"):]
	for host, want := range map[string]int{
		"127.0.0.1": 200, "127.0.0.1" + port: 200, "127.0.0.1:1": 200, "localhost" + port: 200, "LOCALHOST.": 200, "router.lan": 200, "ROUTER.LAN.:80": 200,
		"[::ffff:127.0.0.1]": 200, "evil.example": 421, "evil.example" + port: 421, "127.0.0.2": 421, "router": 421, "192.0.2.1": 421, "router.lan.evil.example": 421,
		"127.0.0.1.nip.io": 421, "[::1]": 421, "127.0.0.1:x": 421,
	} {
		for _, path := range []string{"/", "/status.json", "/v1/events", "/nowhere"} {
			resp, _ := s.do(http.MethodHead, path, "", "Host", host)
			if path == "/nowhere" && want == 200 {
				want = 404
			}
			require.Equal(t, want, resp.StatusCode, "%s %s", host, path)
		}
	}
	nc, err := net.Dial("tcp", strings.TrimPrefix(s.base, "http://"))
	require.NoError(t, err)
	defer func() { _ = nc.Close() }()
	_, err = io.WriteString(nc, "GET / HTTP/1.0\r\n\r\n")
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	require.NoError(t, err)
	require.GreaterOrEqual(t, resp.StatusCode, 400, "no name is none of this host")
}

func TestParseName(t *testing.T) {
	for in, want := range map[string]string{"Router.LAN.": "router.lan", "192.0.2.1": "192.0.2.1", "[2001:DB8::1]": "2001:db8::1", "2001:db8::1": "2001:db8::1", "a_b-1": "a_b-1"} {
		name, err := ParseName(in)
		require.NoError(t, err)
		require.Equal(t, want, name)
	}
	for _, in := range []string{"", ".", "router:80", "http://router", "a b", "*", "r/", strings.Repeat("a", 254)} {
		_, err := ParseName(in)
		require.ErrorIs(t, err, nat.ErrInvalid, in)
	}
}

func ExampleParseName() {
	name, err := ParseName("Router.lan")
	fmt.Println(name, err)
	_, err = ParseName("router.lan:80")
	fmt.Println(err)
	// Output:
	// router.lan <nil>
	// invalid host "router.lan:80": it is not a name or an address, without a port
}

// What another site's page may cause: to have its visitor follow a link.
func TestOtherSites(t *testing.T) {
	s := serve(t, &fake{}, Options{Token: token})
	resp, _ := s.get("/explain?proto=tcp&frontend=80", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors")
	require.Equal(t, http.StatusForbidden, resp.StatusCode)
	resp, _ = s.get("/", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	resp, _ = s.do(http.MethodOptions, "/v1/mappings", "", "Origin", "http://evil.example", "Access-Control-Request-Method", "POST")
	require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
	require.Empty(t, resp.Header.Get("Access-Control-Allow-Origin"))
}

func TestPaths(t *testing.T) {
	s := serve(t, &fake{}, Options{})
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/nowhere", 404}, {"GET", "//", 404}, {"GET", "/v1/", 404}, {"GET", "/favicon.ico", 404}, {"GET", "/v1/mappings/tcp/80/x", 404},
		{"POST", "/", 405}, {"DELETE", "/status.json", 405}, {"GET", "/v1/mappings", 405}, {"GET", "/v1/mappings/tcp/80", 405}, {"PUT", "/v1/mappings", 405}, {"OPTIONS", "/", 405},
		{"GET", "/v1/token", 403}, {"POST", "/v1/mappings", 403}, {"DELETE", "/v1/mappings/tcp/80?name=&backend=172.17.0.2:80", 403},
	} {
		resp, body := s.do(c.method, c.path, "")
		require.Equal(t, c.want, resp.StatusCode, "%v", c)
		require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"), body)
	}
	resp, _ := s.do(http.MethodGet, "/", "body")
	require.Equal(t, http.StatusBadRequest, resp.StatusCode)
}

func TestExplainPage(t *testing.T) {
	s := serve(t, &fake{}, Options{})
	for query, want := range map[string]int{
		"": 200, "?proto=tcp&frontend=80": 200, "?proto=tcp&frontend=80&from=192.0.2.9": 200, "?proto=tcp&frontend=1": 404, "?proto=sctp&frontend=80": 400,
		"?proto=tcp&frontend=80&from=nobody": 400, "?proto=tcp": 400, "?proto=%3Cb%3E&frontend=%22": 400,
	} {
		resp, page := s.get("/explain" + query)
		require.Equal(t, want, resp.StatusCode, query)
		require.Equal(t, typeHTML, resp.Header.Get("Content-Type"))
		if want == 200 && query != "" {
			require.Contains(t, page, "table &lt;b&gt;corpwall&lt;/b&gt;")
		}
	}
	s.set(func() { s.err = errors.New("it is away") })
	resp, page := s.get("/explain?proto=tcp&frontend=80")
	require.Equal(t, http.StatusBadGateway, resp.StatusCode)
	require.Contains(t, page, "it is away")
}

// Only who sends the token in its header changes something, and only what it has seen.
func TestChanges(t *testing.T) {
	web := mapping(t, "8080->172.17.0.2:80", "web & <b>")
	plain := mapping(t, "81->172.17.0.2:81", "")
	f := &fake{mappings: []nat.Mapping{web, plain}}
	s := serve(t, f, Options{Token: token})
	good := []string{"Authorization", "Bearer " + token}
	for _, bad := range [][]string{
		nil, {"Authorization", ""}, {"Authorization", "Bearer"}, {"Authorization", "Bearer " + token[1:]}, {"Authorization", "Bearer " + token + "x"}, {"Authorization", "Basic " + token},
		{"Authorization", token}, {"Cookie", "token=" + token},
	} {
		resp, _ := s.get("/v1/token", bad...)
		require.Equal(t, http.StatusUnauthorized, resp.StatusCode, bad)
		require.Equal(t, "Bearer", resp.Header.Get("Www-Authenticate"))
		resp, _ = s.do("DELETE", removalPath(web), "", bad...)
		require.Equal(t, http.StatusUnauthorized, resp.StatusCode, bad)
		resp, _ = s.do("POST", "/v1/mappings", "{}", bad...)
		require.Equal(t, http.StatusUnauthorized, resp.StatusCode, bad)
	}
	resp, _ := s.get("/v1/token?token=" + token)
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	resp, _ = s.get("/v1/token", good...)
	require.Equal(t, http.StatusNoContent, resp.StatusCode)
	_, page := s.get("/")
	require.NotContains(t, page, token)
	require.Contains(t, page, "Unlock")

	for path, want := range map[string]int{
		"/v1/mappings/tcp/8080":                                       400,
		"/v1/mappings/tcp/8080?name=web":                              400,
		"/v1/mappings/tcp/8080?name=other&backend=172.17.0.2:80":      404,
		removalPath(mapping(t, "8080->172.17.0.2:80", "")):            404,
		removalPath(mapping(t, "8080->172.17.0.3:80", "web & <b>")):   404,
		"/v1/mappings/tcp/x?name=&backend=172.17.0.2:80":              400,
		"/v1/mappings/tcp/8080?name=a&name=b&backend=172.17.0.2:80":   400,
		removalPath(mapping(t, "8080->172.17.0.2:80/udp", web.Name)):  404,
		"/v1/mappings/tcp/8080?name=%00&backend=172.17.0.2%3A80":      404,
		"/v1/mappings/tcp/..%2f8080?name=web&backend=172.17.0.2%3A80": 404,
	} {
		resp, body := s.do("DELETE", path, "", good...)
		require.Equal(t, want, resp.StatusCode, "%s: %s", path, body)
	}
	require.Len(t, f.mappings, 2)
	resp, body := s.do("DELETE", removalPath(web), "", good...)
	require.Equal(t, http.StatusOK, resp.StatusCode, body)
	resp, body = s.do("DELETE", removalPath(plain), "", good...)
	require.Equal(t, http.StatusOK, resp.StatusCode, body)
	require.Empty(t, f.mappings)

	json := append([]string{"Content-Type", "application/json"}, good...)
	for doc, want := range map[string]int{
		`{"proto":"tcp","frontend":"8080","backend":"172.17.0.2:80","name":"web","ttl":"1h"}`:                       201,
		`{"proto":"tcp","frontend":"8081","backend":"172.17.0.2:80"} x`:                                             400,
		`{"proto":"tcp","frontend":"8081","backend":"172.17.0.2:80","kill":true}`:                                   400,
		`{"proto":"tcp","frontend":"x","backend":"172.17.0.2:80"}`:                                                  400,
		`{"proto":"tcp","frontend":"8081","backend":"172.17.0.2:80","ttl":"x"}`:                                     400,
		`{"proto":"tcp","frontend":"8081","backend":"172.17.0.2:80","name":"` + strings.Repeat("x", maxBody) + `"}`: 400,
		``: 400, `[]`: 400,
	} {
		resp, body := s.do("POST", "/v1/mappings", doc, json...)
		require.Equal(t, want, resp.StatusCode, "%.80s: %s", doc, body)
	}
	resp, _ = s.do("POST", "/v1/mappings", "proto=tcp", append([]string{"Content-Type", "application/x-www-form-urlencoded"}, good...)...)
	require.Equal(t, http.StatusUnsupportedMediaType, resp.StatusCode)
	require.Len(t, f.mappings, 1)
	require.WithinDuration(t, time.Now().Add(time.Hour), f.mappings[0].Expires, time.Minute)
	s.set(func() { s.err = &api.Problem{Status: 409, Code: api.CodeConflict, Detail: "tcp 8082 is held"} })
	resp, body = s.do("POST", "/v1/mappings", `{"proto":"tcp","frontend":"8082","backend":"172.17.0.2:80"}`, json...)
	require.Equal(t, http.StatusConflict, resp.StatusCode)
	require.Contains(t, body, "tcp 8082 is held")
}

func TestReadToken(t *testing.T) {
	write := func(text string, mode os.FileMode) string {
		path := filepath.Join(t.TempDir(), "token")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		require.NoError(t, os.Chmod(path, mode))
		return path
	}
	got, err := ReadToken(write(token+"\n", 0o640))
	require.NoError(t, err)
	require.Equal(t, token, got)
	for text, mode := range map[string]os.FileMode{token: 0o644, "short": 0o600, "": 0o600, " \n": 0o600, token + " " + token: 0o600, strings.Repeat("x", maxToken+1): 0o600, token + "é": 0o600, token + "\x00": 0o600} {
		_, err := ReadToken(write(text, mode))
		require.Error(t, err, "%.20q", text)
		require.NotContains(t, err.Error(), token)
	}
	_, err = ReadToken(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// follower applies the lines of the events to rows, as the script does.
type follower struct {
	*bufio.Scanner
	rows    []string
	version string
}

func (s *served) follow(since string) *follower {
	s.Helper()
	r, err := http.NewRequestWithContext(s.Context(), http.MethodGet, s.base+"/v1/events?since="+since, nil)
	require.NoError(s, err)
	resp, err := (&http.Transport{}).RoundTrip(r)
	require.NoError(s, err)
	s.Cleanup(func() { _ = resp.Body.Close() })
	require.Equal(s, http.StatusOK, resp.StatusCode)
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 16<<20)
	return &follower{Scanner: lines, version: since}
}

var rowPattern = regexp.MustCompile(`(?m)^(?:.*<tbody id="rows">)?(<tr id="[^"]*">.*</tr>)$`)

// load returns the rows and the version of a page.
func (s *served) load() (rows []string, version string) {
	s.Helper()
	_, page := s.get("/")
	for _, m := range rowPattern.FindAllStringSubmatch(page, -1) {
		rows = append(rows, m[1])
	}
	return rows, regexp.MustCompile(`data-v="([^"]*)"`).FindStringSubmatch(page)[1]
}

// next reads lines until one is of a type.
func (f *follower) next(t *testing.T, types ...string) (doc struct {
	Type, Version, ID string
	Del               []string
	Put               [][3]string
}) {
	t.Helper()
	for f.Scan() {
		doc.Del, doc.Put = nil, nil
		require.NoError(t, json.Unmarshal(f.Bytes(), &doc))
		if doc.Version != "" {
			f.version = doc.Version
		}
		id := func(row string) string { return regexp.MustCompile(`^<tr id="([^"]*)"`).FindStringSubmatch(row)[1] }
		for _, gone := range doc.Del {
			for i := 0; i < len(f.rows); i++ {
				if id(f.rows[i]) == gone {
					f.rows = append(f.rows[:i], f.rows[i+1:]...)
					i--
				}
			}
		}
		for _, p := range doc.Put {
			for i := 0; i < len(f.rows); i++ {
				if id(f.rows[i]) == p[0] {
					f.rows = append(f.rows[:i], f.rows[i+1:]...)
					i--
				}
			}
			at := 0
			for i := range f.rows {
				if id(f.rows[i]) == p[2] {
					at = i + 1
				}
			}
			f.rows = append(f.rows[:at], append([]string{strings.TrimSpace(p[1])}, f.rows[at:]...)...)
		}
		if slices.Contains(types, doc.Type) {
			return doc
		}
	}
	t.Fatalf("the events have ended: %v", f.Err())
	return doc
}

// Who follows has the same rows as who loads the page.
func TestEvents(t *testing.T) {
	f := &fake{mappings: many(20)}
	s := serve(t, f, Options{})
	rows, version := s.load()
	require.Len(t, rows, 20)
	events := s.follow(version)
	events.rows = rows
	require.Equal(t, "hello", events.next(t, "hello").Type)
	for round := range 5 {
		f.set(func() {
			f.mappings = append(f.mappings[:round+1], f.mappings[round+3:]...)
			f.mappings = append(f.mappings, mapping(t, fmt.Sprintf("%d->172.17.0.9:1", 9000+round), "new"), mapping(t, fmt.Sprintf("%d->172.17.0.9:1/udp", 9000+round), "new"))
			f.mappings[2].Backend = mapping(t, "1->172.17.0.77:7", "").Backend
		})
		require.Equal(t, "published", events.next(t, "published").Type)
		events.next(t, "rows")
		rows, version = s.load()
		for events.version != version {
			events.next(t, "rows", "part")
		}
		require.Equal(t, rows, events.rows)
	}
	// Who has an older version catches up, and who has one that is not known loads the page again.
	late := s.follow(version)
	require.Equal(t, "hello", late.next(t, "hello", "lost").Type)
	unknown := s.follow("other-1")
	require.Equal(t, "lost", unknown.next(t, "hello", "lost").Type)
	require.False(t, unknown.Scan())
}

// A page that was loaded before a change catches up when it follows.
func TestEventsSince(t *testing.T) {
	f := &fake{mappings: many(3)}
	s := serve(t, f, Options{})
	rows, version := s.load()
	f.set(func() { f.mappings = f.mappings[:1] })
	require.Eventually(t, func() bool { now, _ := s.load(); return len(now) == 1 }, 10*time.Second, 20*time.Millisecond)
	events := s.follow(version)
	events.rows = rows
	require.Equal(t, "hello", events.next(t, "hello", "lost").Type)
	for len(events.rows) != 1 {
		events.next(t, "rows")
	}
}

// A client that does not read is told so and forgotten, and there are not more than so many.
func TestStreamsAreBounded(t *testing.T) {
	h := newHub(Options{Daemon: &fake{}}, "x")
	var all []*stream
	for range maxStreams {
		s, _, ok := h.subscribe("", true)
		require.True(t, ok)
		all = append(all, s)
	}
	s, _, _ := h.subscribe("", true)
	require.Nil(t, s)
	h.mu.Lock()
	h.broadcast(make([]byte, 2*queueBytes), false) // one line, however long
	h.broadcast([]byte("{}\n"), true)              // is of no use to a page
	h.mu.Unlock()
	for i, s := range all {
		<-s.some
		if i == 0 {
			continue // which does not read
		}
		lines, lost := h.drain(s)
		require.Len(t, lines, 1)
		require.False(t, lost)
	}
	h.mu.Lock()
	h.broadcast([]byte("{}\n"), false)
	h.mu.Unlock()
	lines, lost := h.drain(all[0])
	require.Empty(t, lines)
	require.True(t, lost)
	lines, lost = h.drain(all[1])
	require.Len(t, lines, 1)
	require.False(t, lost)
	h.mu.Lock()
	for range queueLines + 1 {
		h.broadcast([]byte("{}\n"), false)
	}
	h.mu.Unlock()
	for _, s := range all {
		_, lost := h.drain(s)
		require.True(t, lost)
		h.unsubscribe(s)
	}
	s, _, ok := h.subscribe("", true)
	require.True(t, ok)
	h.unsubscribe(s)
	require.Empty(t, h.streams)
}

// A change of thousands of mappings is a line for pages, however many events of the daemon it makes, and none is lost.
func TestManyAtOnce(t *testing.T) {
	const n = 5000
	f := &fake{}
	s := serve(t, f, Options{})
	_, version := s.load()
	var pages []*follower
	for range 3 {
		p := s.follow(version + "&page")
		require.Equal(t, "hello", p.next(t, "hello", "lost").Type)
		pages = append(pages, p)
	}
	program := s.follow("")
	require.Equal(t, "hello", program.next(t, "hello").Type)
	all := many(n)
	s.mu.Lock()
	s.mappings = all
	events := s.events
	s.mu.Unlock()
	for range n {
		for _, c := range events {
			c <- api.Event{Type: api.EventPublished}
		}
	}
	for i, p := range append(pages, program) {
		put, published := 0, 0
		for p.Scan() {
			var doc struct {
				Type string
				Put  [][3]string
			}
			require.NoError(t, json.Unmarshal(p.Bytes(), &doc))
			require.NotEqual(t, "lost", doc.Type)
			put += len(doc.Put)
			if doc.Type == "published" {
				published++
			}
			if put == n && (i < len(pages) || published == n) {
				break
			}
		}
		require.Equal(t, n, put)
		if i < len(pages) {
			require.Zero(t, published)
		}
	}
}

// A daemon that is there and does not answer is said to be silent within seconds, with the time of what is shown.
func TestDaemonSilent(t *testing.T) {
	f := &fake{mappings: many(1)}
	s := serve(t, f, Options{})
	rows, version := s.load()
	require.Len(t, rows, 1)
	events := s.follow(version)
	events.next(t, "hello")
	s.mu.Lock() // it is stopped
	stopped := time.Now()
	for {
		if doc := events.next(t, "part"); doc.ID == "sum" && strings.Contains(events.Text(), "The daemon does not answer") {
			break
		}
	}
	require.Less(t, time.Since(stopped), 2*(countEvery+lateTime))
	require.Regexp(t, `silent for 1.5s.*What is below was true at `, events.Text())
	_, page := s.get("/")
	require.Contains(t, page, "The daemon does not answer")
	require.Contains(t, page, "service-0")
	s.mu.Unlock()
	require.Eventually(t, func() bool {
		_, page := s.get("/")
		return !strings.Contains(page, "The daemon does not answer")
	}, 10*time.Second, 50*time.Millisecond)
}

// What is kept for pages that are a little older is bounded.
func TestKeptLines(t *testing.T) {
	h := newHub(Options{Daemon: &fake{}}, "x")
	for range 3 * keptLines {
		h.version++
		h.keep([]byte("{}"))
	}
	require.Len(t, h.kept, keptLines)
	h.version++
	h.keep(make([]byte, keptBytes+1))
	require.Empty(t, h.kept)
	_, _, ok := h.subscribe(h.id(h.version-1), true)
	require.False(t, ok)
}

// However often the page is loaded, the daemon is asked seldom.
func TestLoadOfDaemon(t *testing.T) {
	f := &fake{mappings: many(10)}
	s := serve(t, f, Options{})
	s.load()
	began, before := time.Now(), f.count("mappings")
	done := make(chan struct{})
	for range 8 {
		go func() {
			for range 25 {
				s.get("/")
			}
			done <- struct{}{}
		}()
	}
	for range 8 {
		<-done
	}
	most := int(time.Since(began)/changePause) + 2
	require.LessOrEqual(t, f.count("mappings")-before, most)
	require.LessOrEqual(t, f.count("connections"), int(time.Since(began)/countEvery)+3)
}

// While the daemon is away, the page says so, and shows what it knew.
func TestDaemonAway(t *testing.T) {
	f := &fake{mappings: many(1)}
	s := serve(t, f, Options{})
	rows, _ := s.load()
	require.Len(t, rows, 1)
	s.set(func() { s.err = errors.New("no server answers") })
	await := func(want bool) {
		require.Eventually(t, func() bool {
			_, page := s.get("/")
			return strings.Contains(page, "The daemon does not answer") == want && strings.Contains(page, "service-0")
		}, 10*time.Second, 50*time.Millisecond)
	}
	await(true)
	s.set(func() { s.err = nil })
	await(false)
}

// A daemon that goes in the middle of a reading leaves what was read before.
func TestDaemonGoesMeanwhile(t *testing.T) {
	f := &fake{mappings: many(3), connsErr: errors.New("it was killed")}
	s := serve(t, f, Options{})
	has := func(want string) {
		t.Helper()
		require.Eventually(t, func() bool {
			_, page := s.get("/")
			return strings.Contains(page, want)
		}, 10*time.Second, 50*time.Millisecond, want)
	}
	has("it was killed")
	f.set(func() { f.connsErr = nil })
	has("service-2")
	f.set(func() { f.mappings, f.connsErr = many(5), errors.New("it was killed again") })
	has("it was killed again")
	f.set(func() { f.connsErr = nil })
	has("service-4")
}

// deadlined notes whether an answer has to be read in time.
type deadlined struct {
	http.ResponseWriter
	set bool
}

func (w *deadlined) SetWriteDeadline(time.Time) error {
	w.set = true
	return nil
}

// A client that does not read what is refused to it keeps no connection.
func TestRefusalsHaveDeadline(t *testing.T) {
	s := newServer(Options{Daemon: &fake{}, Names: []string{"router"}})
	for _, request := range [][3]string{{"GET", "evil.example", "/"}, {"GET", "router", "/nowhere"}, {"PUT", "router", "/"}, {"POST", "router", "/v1/mappings"}} {
		r := httptest.NewRequest(request[0], request[2], nil)
		r.Host = request[1]
		answer := httptest.NewRecorder()
		w := &deadlined{ResponseWriter: answer}
		s.ServeHTTP(w, r)
		require.GreaterOrEqual(t, answer.Code, 400, request)
		require.True(t, w.set, request)
	}
}

// A source has its share of connections, and gets more when it has closed some.
func TestConnectionsAreBounded(t *testing.T) {
	s := serve(t, &fake{}, Options{})
	address := strings.TrimPrefix(s.base, "http://")
	var open []net.Conn
	for range maxOfSource {
		nc, err := net.Dial("tcp", address)
		require.NoError(t, err)
		open = append(open, nc)
	}
	await := func(want bool) {
		require.Eventually(t, func() bool {
			nc, err := net.Dial("tcp", address)
			require.NoError(t, err)
			defer func() { _ = nc.Close() }()
			_, _ = io.WriteString(nc, "HEAD / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
			_, err = http.ReadResponse(bufio.NewReader(nc), nil)
			return (err == nil) == want
		}, 10*time.Second, 20*time.Millisecond)
	}
	await(false)
	for _, nc := range open {
		require.NoError(t, nc.Close())
	}
	await(true)
}
