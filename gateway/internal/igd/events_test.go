// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package igd

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/gateway/internal/lease"
	"github.com/nftnat/nftnat/nat"
)

const subscribe = "SUBSCRIBE /ip/events"

func callback(url string) []string {
	return []string{"CALLBACK: " + url, "NT: upnp:event", "TIMEOUT: Second-300"}
}

// Events go to the subscriber's own address only (UDA 1.1, 4.1.1; CVE-2020-12695).
func TestCallbacks(t *testing.T) {
	s, _ := newTestServer(t, V1)
	for _, url := range []string{
		"", "<>", "http://192.168.77.2:5000/", "<http://192.168.77.3:5000/>", "<http://client.example/>", "<https://192.168.77.2/>", "<http://a@192.168.77.2/>",
		"<http://192.168.77.2:0/>", "<http://192.168.77.2:65536/>", "<http://192.168.77.2:5000/", "<http://192.168.77.2/><http://192.168.77.3/>", "<http://[::ffff:192.168.77.2]/>",
		"<http://192.168.77.2:5000/" + strings.Repeat("a", maxCallback) + ">", "<http://127.0.0.1/>", "<192.168.77.2:5000>", "<http://192.168.77.2/> x", "<http://3232255234/>",
	} {
		require.Equal(t, http.StatusPreconditionFailed, request(s, client, subscribe, "", callback(url)...).Code, url)
	}
	require.Empty(t, s.publisher.subscriptions)
	require.Equal(t, http.StatusPreconditionFailed, request(s, client, subscribe, "", "CALLBACK: <http://192.168.77.2/>").Code)

	for url, want := range map[string]string{
		"<http://192.168.77.2>":                                    "192.168.77.2:80 /",
		"<http://192.168.77.2:5000/a?b c>":                         "192.168.77.2:5000 /a?b c",
		" <http://192.168.77.2:1/a%20b> <http://192.168.77.2:2/> ": "192.168.77.2:1 /a%20b",
		"<http://192.168.77.2:5000/<script>":                       "192.168.77.2:5000 /%3Cscript",
	} {
		to, path, ok := parseCallback(url, client)
		require.True(t, ok, url)
		require.Equal(t, want, to.String()+" "+path)
	}
	to, _, ok := parseCallback("<http://[fe80::2]:80/>", netip.MustParseAddr("fe80::2%lan0"))
	require.True(t, ok)
	require.Equal(t, "[fe80::2%lan0]:80", to.String())
}

func TestSubscriptions(t *testing.T) {
	s, _ := newTestServer(t, V1)
	w := request(s, client, subscribe, "", callback("<http://192.168.77.2/>")...)
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, "Second-300", w.Header().Get("TIMEOUT"))
	sid := "SID: " + w.Header().Get("SID")
	require.Contains(t, sid, "uuid:")

	require.Equal(t, http.StatusBadRequest, request(s, client, subscribe, "", append(callback("<http://192.168.77.2/>"), sid)...).Code)
	for _, c := range []struct {
		from netip.Addr
		line string
		code int
	}{
		{client, subscribe, 200}, {other, subscribe, 412}, {client, "SUBSCRIBE /cif/events", 412},
		{other, "UNSUBSCRIBE /ip/events", 412}, {client, "UNSUBSCRIBE /ip/events", 200}, {client, "UNSUBSCRIBE /ip/events", 412}, {client, subscribe, 412},
	} {
		w := request(s, c.from, c.line, "", sid)
		require.Equal(t, c.code, w.Code, c.line)
		if c.code == 200 && c.line == subscribe {
			require.Equal(t, "Second-1800", w.Header().Get("TIMEOUT"))
		}
	}
	for range maxOfClient {
		require.Equal(t, http.StatusOK, request(s, client, subscribe, "", callback("<http://192.168.77.2/>")...).Code)
	}
	require.Equal(t, http.StatusServiceUnavailable, request(s, client, subscribe, "", callback("<http://192.168.77.2/>")...).Code)
	for i := range 2 * maxSubscriptions {
		from := netip.AddrFrom4([4]byte{192, 168, 78, byte(i)})
		request(s, from, subscribe, "", callback("<http://"+from.String()+"/>")...)
	}
	require.Len(t, s.publisher.subscriptions, maxSubscriptions)
	for _, sub := range s.publisher.subscriptions {
		sub.expires = time.Now()
	}
	require.Equal(t, http.StatusOK, request(s, client, subscribe, "", callback("<http://192.168.77.2/>")...).Code)
	require.Len(t, s.publisher.subscriptions, 1)
}

func TestParseTimeout(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": maxTimeout, "Second-infinite": maxTimeout, "Second-0": minTimeout, "second-120": 2 * time.Minute, "Second-99999": maxTimeout, "Second--1": maxTimeout, "120": maxTimeout,
	} {
		require.Equal(t, want, parseTimeout(text), text)
	}
}

// A subscriber gets all variables at first, and then those that change.
func TestEvents(t *testing.T) {
	s, f := newTestServer(t, V2)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	type event struct{ seq, sid, body string }
	events := make(chan event, 10)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r, err := http.ReadRequest(bufio.NewReader(conn))
			if err != nil || r.Method != "NOTIFY" || r.URL.Path != "/here" || r.Header.Get("NT") != "upnp:event" || r.Header.Get("NTS") != "upnp:propchange" {
				events <- event{body: "no event"}
				return
			}
			body, _ := io.ReadAll(r.Body)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			_ = conn.Close()
			events <- event{r.Header.Get("SEQ"), r.Header.Get("SID"), string(body)}
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.publisher.run(ctx, f.Changed) }()
	defer func() {
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, l.Close())
	}()
	self := netip.MustParseAddr("127.0.0.1")
	s.publisher.mu.Lock()
	s.publisher.subscriptions["uuid:1"] = &subscription{
		sid: "uuid:1", service: s.tree[2].service, callback: netip.MustParseAddrPort(l.Addr().String()), path: "/here", local: self, expires: time.Now().Add(time.Hour), busy: true,
	}
	s.publisher.mu.Unlock()
	s.publisher.begin(s.publisher.subscriptions["uuid:1"])

	first := <-events
	require.Equal(t, "0", first.seq)
	require.Equal(t, "uuid:1", first.sid)
	golden(t, "event.txt", first.body)
	f.setAddress(netip.MustParseAddr("45.0.0.9"))
	second := <-events
	require.Equal(t, "1", second.seq)
	require.Contains(t, second.body, "<ExternalIPAddress>45.0.0.9</ExternalIPAddress>")
	require.NotContains(t, second.body, "ConnectionStatus")
	_, err = f.Grant(ctx, lease.Request{Kind: lease.IGD, Client: client, Proto: nat.TCP, Internal: 80, External: 8080})
	require.NoError(t, err)
	third := <-events
	require.Equal(t, "2", third.seq)
	require.Contains(t, third.body, "<PortMappingNumberOfEntries>1</PortMappingNumberOfEntries>")
	require.Contains(t, third.body, "<SystemUpdateID>1</SystemUpdateID>")
	require.NotContains(t, third.body, "ExternalIPAddress")
}

func TestSequence(t *testing.T) {
	s := subscription{seq: 1<<32 - 1}
	s.count()
	require.EqualValues(t, 1, s.seq)
}

func FuzzCallback(f *testing.F) {
	f.Add("<http://192.168.77.2:5000/a?b>")
	f.Add("<http://192.168.77.2/> <http://192.168.77.2:1/>")
	f.Fuzz(func(t *testing.T, s string) {
		to, path, ok := parseCallback(s, client)
		if !ok {
			return
		}
		if to.Addr() != client || to.Port() == 0 {
			t.Fatal(to)
		}
		sub := &subscription{callback: to, path: path, sid: "uuid:1"}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(string(sub.event(nil)))))
		if err != nil || r.Host != to.String() || len(r.Header) != 7 {
			t.Fatal(err, r)
		}
	})
}
