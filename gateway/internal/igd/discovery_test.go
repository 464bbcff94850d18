// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package igd

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/gateway/internal/lan"
)

// search is what upnpc sends: 137 bytes for a gateway.
func searchFor(target string, fields ...string) string {
	return "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nST: " + target + "\r\nMAN: \"ssdp:discover\"\r\n" +
		strings.Join(append(fields, ""), "\r\n") + "\r\n"
}

func TestParseSearch(t *testing.T) {
	gatewayType := deviceURN + "InternetGatewayDevice:1"
	for in, want := range map[string]search{
		searchFor(gatewayType, "MX: 2"):                           {gatewayType, 2 * time.Second},
		searchFor(gatewayType, "MX: 2") + "\r\n":                  {gatewayType, 2 * time.Second},
		searchFor("ssdp:all", "Mx:120"):                           {"ssdp:all", maxWait},
		searchFor("ssdp:all", "MX: 0"):                            {"ssdp:all", 0},
		searchFor("x"):                                            {"x", -1},
		searchFor("x", "USER-AGENT: a", "CPFN.UPNP.ORG: b", "C:"): {"x", -1},
	} {
		q, ok := parseSearch([]byte(in))
		require.True(t, ok, in)
		require.Equal(t, want, q)
	}
	good := searchFor("ssdp:all", "MX: 2")
	for _, in := range []string{
		"", "M-SEARCH", "NOTIFY * HTTP/1.1\r\n\r\n", good[:len(good)-2], good[1:], good + "x",
		strings.Replace(good, "HTTP/1.1", "HTTP/1.0", 1), strings.ReplaceAll(good, "\r\n", "\n"), strings.Replace(good, "*", "/", 1),
		strings.Replace(good, `"`, "", 2), strings.Replace(good, "ST: ssdp:all\r\n", "", 1), strings.Replace(good, "ssdp:all", "", 1),
		searchFor("ssdp:all", "MX: -1"), searchFor("ssdp:all", "MX: +1"), searchFor("ssdp:all", "MX: two"), searchFor("ssdp:all", "MX: 99999999999"), searchFor("ssdp:all", "MX:"),
		searchFor("ssdp:all", "MX: 1", "MX: 2"), searchFor("ssdp:all", "MX: 1", "st: x"), searchFor("ssdp:all", "MX: 1", " folded"), searchFor("ssdp:all", "A B: c"), searchFor("ssdp:all", ": c"),
		searchFor("ssdp:all", "A: \x00"), searchFor("ssdp:all", strings.Repeat("A", maxSearch)),
	} {
		_, ok := parseSearch([]byte(in))
		require.False(t, ok, in)
	}
}

// A search is answered with the version that it asks for.
func TestFind(t *testing.T) {
	for _, c := range []struct {
		version Version
		st      string
		usns    int
	}{
		{V1, searchAll, 10}, {V2, searchAll, 10}, {V1, rootDevice, 1},
		{V1, deviceURN + "InternetGatewayDevice:1", 1}, {V1, deviceURN + "InternetGatewayDevice:2", 0},
		{V2, deviceURN + "InternetGatewayDevice:1", 1}, {V2, deviceURN + "InternetGatewayDevice:2", 1}, {V2, deviceURN + "InternetGatewayDevice:3", 0},
		{V2, deviceURN + "InternetGatewayDevice:0", 0}, {V2, deviceURN + "InternetGatewayDevice:", 0}, {V2, deviceURN + "InternetGatewayDevice:01", 0}, {V2, deviceURN + "InternetGatewayDevice", 0},
		{V1, serviceURN + "WANIPConnection:1", 1}, {V2, serviceURN + "WANIPConnection:1", 1}, {V1, serviceURN + "WANPPPConnection:1", 0},
		{V2, serviceURN + "Layer3Forwarding:2", 0}, {V1, "uuid:", 0}, {V1, "x", 0},
	} {
		all := targets(newTree(c.version, "seed"))
		found := find(all, c.st)
		require.Len(t, found, c.usns, "%s %s", c.version, c.st)
		for _, m := range found {
			if c.st != searchAll {
				require.Equal(t, c.st, m.target.nt(m.version))
			}
			require.Equal(t, m.target.udn, m.target.usn(m.version)[:41])
		}
	}
	for _, d := range newTree(V1, "seed") {
		require.Len(t, find(targets(newTree(V1, "seed")), d.udn), 1)
		require.Empty(t, find(targets(newTree(V1, "other")), d.udn))
	}
}

// fakeSocket keeps what is sent, and when.
type fakeSocket struct {
	in     chan lan.Packet
	closed chan struct{}

	mu  sync.Mutex
	out []sent
}

type sent struct {
	at   time.Duration
	to   string
	text string
}

var opened = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // when a bubble of synctest begins

func newFakeSocket() *fakeSocket {
	return &fakeSocket{in: make(chan lan.Packet), closed: make(chan struct{})}
}

func (f *fakeSocket) Read(buf []byte) (lan.Packet, error) {
	select {
	case p := <-f.in:
		p.Data = buf[:copy(buf, p.Data)]
		return p, nil
	case <-f.closed:
		return lan.Packet{}, net.ErrClosed
	}
}

func (f *fakeSocket) keep(to, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.out = append(f.out, sent{time.Since(opened), to, text})
}

func (f *fakeSocket) Reply(p lan.Packet, data []byte) error {
	f.keep(p.From.String(), string(data))
	return nil
}

func (f *fakeSocket) Send(device string, to netip.AddrPort, data []byte) error {
	f.keep(device+" "+to.String(), string(data))
	return nil
}

func (f *fakeSocket) Close() error {
	close(f.closed)
	return nil
}

// drain returns what was sent since it was called before.
func (f *fakeSocket) drain() []sent {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.out
	f.out = nil
	return out
}

func (f *fakeSocket) ask(from, text string) {
	to := netip.MustParseAddr("239.255.255.250")
	f.in <- lan.Packet{Data: []byte(text), From: netip.MustParseAddrPort(from), To: to, Local: gateway4, Device: "lan0"}
}

// discovering runs a discovery in a bubble.
func discovering(t *testing.T, v Version, test func(t *testing.T, f *fakeSocket, l *fakeLAN, stop func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s, _ := newTestServer(t, v)
		f, l := newFakeSocket(), newFakeLAN()
		d := s.discovery
		d.socket, d.lan, d.boot, d.config = f, l, "12345", "678"
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.run(ctx) }()
		stopped := false
		stop := func() {
			if !stopped {
				stopped = true
				cancel()
				require.NoError(t, <-done)
			}
		}
		defer stop()
		synctest.Wait()
		test(t, f, l, stop)
	})
}

func TestAnnouncements(t *testing.T) {
	for _, v := range []Version{V1, V2} {
		discovering(t, v, func(t *testing.T, f *fakeSocket, l *fakeLAN, stop func()) {
			t.Helper()
			first := f.drain()
			require.Len(t, first, 30) // of ten targets, to three groups
			var b strings.Builder
			for _, s := range first {
				b.WriteString("# " + s.to + "\n" + strings.ReplaceAll(s.text, "\r\n", "\n"))
				require.NotContains(t, s.text, "%")
			}
			time.Sleep(firstPause)
			synctest.Wait()
			again := f.drain()
			require.Len(t, again, len(first))
			require.Equal(t, first[0].text, again[0].text)

			last := again[0].at
			for range 20 {
				time.Sleep(maxAge / 2)
				synctest.Wait()
				next := f.drain()
				require.NotEmpty(t, next)
				require.Greater(t, next[0].at, last+maxAge/3)
				last = next[len(next)-1].at
			}
			l.change()
			l.change()
			synctest.Wait()
			require.Empty(t, f.drain())
			time.Sleep(afterChange)
			synctest.Wait()
			require.Len(t, f.drain(), len(first))

			stop()
			for _, s := range f.drain() {
				require.Contains(t, s.text, "ssdp:byebye")
				b.WriteString("# " + s.to + "\n" + strings.ReplaceAll(s.text, "\r\n", "\n"))
			}
			golden(t, "announcements-"+v.String()+".txt", b.String())
		})
	}
}

// Each search has one answer, in time, from the address that was asked, and not too large.
func TestAnswers(t *testing.T) {
	discovering(t, V1, func(t *testing.T, f *fakeSocket, _ *fakeLAN, _ func()) {
		t.Helper()
		time.Sleep(firstPause)
		synctest.Wait()
		f.drain()
		var b strings.Builder
		for _, target := range []string{
			deviceURN + "InternetGatewayDevice:1", deviceURN + "WANDevice:1", deviceURN + "WANConnectionDevice:1", rootDevice, searchAll, newTree(V1, "02:00:00:00:00:01")[0].udn,
			serviceURN + "WANIPConnection:1", serviceURN + "WANCommonInterfaceConfig:1", serviceURN + "Layer3Forwarding:1",
		} {
			asked := time.Since(opened)
			text := searchFor(target, "MX: 2")
			f.ask("192.168.77.2:1900", text)
			time.Sleep(2 * time.Second)
			synctest.Wait()
			out := f.drain()
			require.Len(t, out, 1, target)
			require.Equal(t, "192.168.77.2:1900", out[0].to)
			require.LessOrEqual(t, len(out[0].text), maxFactor*len(text), target)
			require.Less(t, out[0].at, asked+2*time.Second)
			b.WriteString("> " + strings.ReplaceAll(text, "\r\n", "\n") + "< " + strings.ReplaceAll(out[0].text, "\r\n", "\n"))
		}
		golden(t, "answers.txt", b.String())
	})
}

// The times of answers are spread over what a client waits.
func TestAnswersAreSpread(t *testing.T) {
	discovering(t, V1, func(t *testing.T, f *fakeSocket, _ *fakeLAN, _ func()) {
		t.Helper()
		time.Sleep(firstPause)
		synctest.Wait()
		f.drain()
		asked := time.Since(opened)
		for i := range 100 {
			f.ask("192.168.77."+string(rune('2'+i%8))+":"+string(rune('1'+i/8%9))+"000", searchFor(rootDevice, "MX: 5", "A: "+strings.Repeat("b", i)))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		out := f.drain()
		require.Len(t, out, 72) // those that ask again while they wait get one
		early, late := 0, 0
		for _, s := range out {
			switch since := s.at - asked; {
			case since > maxWait:
				t.Fatal(since)
			case since < time.Second:
				early++
			case since > 1500*time.Millisecond:
				late++
			}
		}
		require.NotZero(t, early)
		require.NotZero(t, late)
	})
}

func TestBounds(t *testing.T) {
	discovering(t, V1, func(t *testing.T, f *fakeSocket, _ *fakeLAN, _ func()) {
		t.Helper()
		time.Sleep(firstPause)
		synctest.Wait()
		f.drain()
		count := func() (bytes int) {
			time.Sleep(time.Minute)
			synctest.Wait()
			for _, s := range f.drain() {
				bytes += len(s.text)
			}
			return bytes
		}
		for i := range 1000 { // of one source
			f.ask("192.168.77.2:"+netip.AddrPortFrom(client, uint16(1000+i)).String()[13:], searchFor(rootDevice, "MX: 5"))
		}
		n := count()
		require.LessOrEqual(t, n, maxRate)
		require.NotZero(t, n)
		for i := range 2000 { // of many
			f.ask(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}), 1900).String(), searchFor(rootDevice, "MX: 5"))
		}
		require.LessOrEqual(t, count(), maxPending*300)

		// Too small a question for its answer, and questions that are none.
		for _, text := range []string{searchFor(serviceURN + "WANIPConnection:1")[:50], "", searchFor(rootDevice)} {
			f.ask("192.168.77.3:1900", text)
		}
		require.Zero(t, count())
		// To the gateway itself there needs to be no MX.
		f.in <- lan.Packet{Data: []byte(searchFor(rootDevice)), From: netip.MustParseAddrPort("192.168.77.3:1900"), To: gateway4, Local: gateway4}
		synctest.Wait()
		require.Len(t, f.drain(), 1)
		f.in <- lan.Packet{Data: []byte(searchFor(rootDevice, "MX: 1")), From: netip.MustParseAddrPort("[fe80::2%lan0]:1900"), To: gateway6, Local: netip.MustParseAddr("fe80::1%lan0")}
		time.Sleep(time.Second)
		synctest.Wait()
		out := f.drain()
		require.Len(t, out, 1)
		require.Contains(t, out[0].text, "LOCATION: http://[fe80::1]:1900/igd.xml\r\n")
	})
}

// The shortest search for everything, or for a gateway, has room for the longest answer.
func TestRoom(t *testing.T) {
	s, _ := newTestServer(t, V1)
	d := s.discovery
	d.boot, d.config = "2147483647", "16777215"
	for _, target := range []string{searchAll, rootDevice, deviceURN + "InternetGatewayDevice:1"} {
		n := len("M-SEARCH * HTTP/1.1\r\nHOST:239.255.255.250:1900\r\nMAN:\"ssdp:discover\"\r\nMX:1\r\nST:\r\n\r\n") + len(target)
		q := question{search{target, time.Second}, lan.Packet{From: netip.AddrPortFrom(client, 1), Local: netip.MustParseAddr("192.168.100.100")}, n}
		require.NotEmpty(t, d.answers(q, time.Now()), target)
	}
}

func TestBootIDGrows(t *testing.T) {
	last := ""
	for range 3 {
		next := bootID(t.Context())
		require.Greater(t, next, last)
		last = next
	}
}

// No datagram is answered by more than three times its size.
func FuzzSearch(f *testing.F) {
	f.Add([]byte(searchFor(searchAll, "MX: 1")))
	f.Add([]byte(searchFor(deviceURN+"InternetGatewayDevice:1", "MX: 2")))
	s, _ := newTestServer(f, V1)
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &discovery{advertiser: advertiser{boot: "1", config: "2", port: 1900}, targets: s.discovery.targets}
		q, ok := parseSearch(data)
		if !ok {
			return
		}
		if q.wait > maxWait {
			t.Fatal(q.wait)
		}
		n := 0
		for _, a := range d.answers(question{q, lan.Packet{From: netip.AddrPortFrom(client, 1), Local: gateway4}, len(data)}, time.Now()) {
			n += len(a)
		}
		if n > maxFactor*len(data) {
			t.Fatalf("%d bytes for %d", n, len(data))
		}
	})
}
