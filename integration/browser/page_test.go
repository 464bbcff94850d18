// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"
)

// hostile are names that others may give.
var hostile = []string{"igd:<b>&amp;", `igd:'><script>pwned=1</script>`, "igd:\u202eevil\u202c", "שלום עולם", "igd:<img src=x onerror=pwned=1>"}

// usual are mappings of all kinds.
func usual() []request {
	ms := []request{
		{Proto: "tcp", Port: 8080, Backend: "172.17.0.2:80", Name: "web"},
		{Proto: "tcp", Host: "192.0.2.1", Port: 443, Backend: "172.17.0.2:443", From: []string{"198.51.100.0/24", "203.0.113.0/24"}},
		{Proto: "tcp", Host: "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff", Port: 443, Backend: "[fd00:aaaa:bbbb:cccc:dddd:eeee:ffff:1]:443", Name: "web-over-ipv6"},
		{Proto: "tcp", Port: 2222, Backend: "172.17.0.3:22", Name: "docker:0a1b2c3d"},
		{Proto: "tcp", Port: 2223, Backend: "172.17.0.3:22", Name: "cni:0a1b2c3d4e5f60718293a4b5c6d7e8f9"},
		{Proto: "udp", Port: 3074, Backend: "192.168.1.20:3074", Name: "igd:Xbox (192.168.1.20:3074) 3074 UDP", TTL: "2h"},
		{Proto: "udp", Port: 51820, Backend: "192.168.1.30:51820", Name: "pcp:00112233445566778899aabb", TTL: "90s"},
		{Proto: "tcp", Port: 51413, Backend: "192.168.1.40:51413", Name: "pmp:", TTL: "59m"},
		{Proto: "udp", Port: 10000, Backend: "172.17.0.9:10000", Count: 10001, Name: "turn"},
	}
	for i, name := range hostile {
		ms = append(ms, request{Proto: "udp", Port: 7000 + i, Backend: "192.168.1.99:7000", Name: name, TTL: "3d"})
	}
	return ms
}

// someLeases is a gateway with clients that mean no good.
func someLeases() map[string]any {
	return map[string]any{
		"version": "1", "address": "198.51.100.7", "warnings": []string{"the WAN has a private address"},
		"leases": []map[string]any{
			{"kind": "igd", "client": "192.168.1.20", "proto": "udp", "internal": 3074, "external": 3074, "description": "Xbox", "expires": time.Now().Add(2 * time.Hour)},
			{"kind": "pmp", "client": "192.168.1.40", "proto": "tcp", "internal": 51413, "external": 51413},
		},
		"refusals": []map[string]any{
			{"time": time.Now(), "count": 3, "kind": "pcp", "client": "192.168.1.66", "reason": "the quota of 32 ports is used up", "request": "tcp 80 to 192.168.1.1"},
			{"time": time.Now(), "count": 1, "kind": "igd", "client": "192.168.1.66", "reason": "the description is too long", "request": strings.Repeat("<b>&amp;", 8<<10)},
		},
	}
}

// The page in a browser. All parts share a daemon and a browser.
func TestPageInBrowser(t *testing.T) {
	s := newSite(t)
	s.publish()
	t.Run("empty", func(t *testing.T) { s.looks(t, "empty", 0) })
	s.publish(usual()...)
	s.leases(someLeases())
	t.Run("usual", func(t *testing.T) { s.looks(t, "usual", len(usual())) })
	t.Run("explain", s.testExplain)
	t.Run("hostile", s.testHostile)
	t.Run("requests", s.testRequests)
	t.Run("without script", s.testWithoutScript)
	t.Run("keyboard", s.testKeyboard)
	t.Run("live", s.testLive)
	t.Run("clock", s.testClock)
	t.Run("changes", s.testChanges)
	t.Run("host", s.testHost)
	t.Run("restart", s.testRestart)
	t.Run("lost", s.testLost)
	t.Run("5000", s.testMany)
}

const rows = `document.querySelectorAll("#rows tr").length`

// looks loads the page in all sizes and colours.
func (s *site) looks(t *testing.T, name string, n int) {
	for _, width := range []int64{360, 1280} {
		for _, scheme := range []string{"light", "dark"} {
			p := s.tab(t, width, scheme)
			p.open("/")
			p.await(fmt.Sprintf(`%s === %d && document.getElementById("live").textContent === "Live"`, rows, n))
			p.await(`!document.getElementById("wrong").textContent.includes("not looked yet")`)
			p.fits()
			p.accessible("document")
			p.picture(fmt.Sprintf("%s-%d-%s", name, width, scheme))
			p.clean()
			require.NoError(t, chromedp.Cancel(p.ctx))
		}
	}
}

func (s *site) testExplain(t *testing.T) {
	p := s.tab(t, 360, "light")
	p.open("/explain?proto=tcp&frontend=8080")
	require.Contains(t, eval[string](p, `document.querySelector("pre").textContent`), "tcp 8080")
	p.fits()
	p.accessible("document")
	p.picture("explain-360")
	p.clean()
}

// Names of others are shown, and are nothing else.
func (s *site) testHostile(t *testing.T) {
	p := s.tab(t, 1280, "light")
	p.open("/")
	p.await(`document.getElementById("live").textContent === "Live"`)
	text := eval[string](p, `document.getElementById("rows").textContent`)
	require.Contains(t, text, "<b>&amp;")
	require.Contains(t, text, `'><script>pwned=1</script>`)
	require.Contains(t, text, `\u202eevil`)
	require.Contains(t, text, "שלום עולם")
	// Also in what comes by the events.
	s.publish(append(usual(), request{Proto: "tcp", Port: 9, Backend: "192.168.1.99:9", Name: "<img src=x onerror=pwned=1>"})...)
	p.await(`document.getElementById("tcp/9") !== null`)
	require.True(t, eval[bool](p, `typeof pwned === "undefined"`))
	require.Zero(t, eval[int](p, `document.querySelectorAll("img,b b,#rows script").length`))
	p.clean()
	s.publish(usual()...)
}

// A load is one request; the script then follows the events.
func (s *site) testRequests(t *testing.T) {
	p := s.tab(t, 1280, "light")
	p.open("/")
	p.await(`document.getElementById("live").textContent === "Live"`)
	sent := p.sent()
	require.Len(t, sent, 2, "%q", sent)
	require.Equal(t, "GET http://"+s.address+"/", sent[0])
	require.True(t, strings.HasPrefix(sent[1], "GET http://"+s.address+"/v1/events?page&since="), "%q", sent)
}

func (s *site) testWithoutScript(t *testing.T) {
	p := s.tab(t, 360, "dark")
	p.run(emulation.SetScriptExecutionDisabled(true))
	p.open("/")
	p.picture("without-script-360")
	require.Len(t, p.sent(), 1)
	var text string
	p.run(chromedp.Text("body", &text, chromedp.ByQuery))
	for _, want := range []string{"tcp 8080", "172.17.0.2:80", "web", "UPnP IGD", "never", "explain", "What is wrong", "192.168.1.66", "As of"} {
		require.Contains(t, text, want)
	}
	require.NotContains(t, text, "Filter", "it needs the script")
	require.NotContains(t, text, "Unlock")
	var link string
	p.run(chromedp.AttributeValue(`[id="tcp/8080"] a`, "href", &link, nil, chromedp.ByQuery))
	p.open(link)
	p.run(chromedp.Text("pre", &text, chromedp.ByQuery))
	require.Contains(t, text, "tcp 8080")
}

// Everything can be reached by the keyboard, and what has the focus is seen.
func (s *site) testKeyboard(t *testing.T) {
	p := s.tab(t, 1280, "light")
	p.open("/")
	p.await(`document.getElementById("live").textContent === "Live"`)
	p.run(chromedp.KeyEvent(kb.Tab))
	require.Equal(t, "Skip to the published ports", eval[string](p, `document.activeElement.textContent`))
	require.GreaterOrEqual(t, eval[int](p, `Math.round(document.activeElement.getBoundingClientRect().left)`), 0, "it is seen")
	p.run(chromedp.KeyEvent(kb.Enter))
	require.Equal(t, "ports", eval[string](p, `document.activeElement.id`))
	p.run(chromedp.KeyEvent("/"))
	require.Equal(t, "filter", eval[string](p, `document.activeElement.id`))
	p.run(chromedp.Evaluate(`document.getElementById("filter").value = ""`, nil)) // the browser's protocol sends the character all the same
	p.run(chromedp.KeyEvent("nat-pmp"))
	p.await(`[...document.querySelectorAll("#rows tr")].filter(r => r.offsetParent).map(r => r.id).join() === "tcp/51413"`)
	require.Equal(t, "1 shown", eval[string](p, `document.getElementById("shown").textContent`))
	p.run(chromedp.KeyEvent(kb.Tab))
	require.Equal(t, "explain tcp 51413", eval[string](p, `document.activeElement.getAttribute("aria-label")`))
	require.NotEqual(t, "none", eval[string](p, `getComputedStyle(document.activeElement).outlineStyle`))
	p.run(chromedp.KeyEvent(kb.Enter))
	p.await(`location.pathname === "/explain" && document.querySelector("pre") !== null`)
	p.clean()
}

// What happens is seen without a load, and who is at a row stays there.
func (s *site) testLive(t *testing.T) {
	p := s.tab(t, 1280, "light")
	p.open("/")
	p.await(`document.getElementById("live").textContent === "Live"`)
	p.run(chromedp.Evaluate(`marker = 1; document.querySelector('[id="tcp/8080"] a').focus()`, nil))
	ms := usual()
	ms[0].Backend = "172.17.0.99:80"
	s.publish(append(ms[:1:1], request{Proto: "tcp", Port: 8081, Backend: "172.17.0.2:81", Name: "more", TTL: "1h"})...)
	p.await(rows + ` === 2 && document.getElementById("tcp/8080").textContent.includes("172.17.0.99:80")`)
	require.Equal(t, "tcp/8080,tcp/8081", eval[string](p, `[...document.querySelectorAll("#rows tr")].map(r => r.id).join()`))
	require.Equal(t, "explain tcp 8080", eval[string](p, `document.activeElement.getAttribute("aria-label")`))
	p.await(`/^in 59m \d+s$/.test(document.querySelector('[id="tcp/8081"] time').textContent)`)
	p.await(`document.getElementById("count").textContent === "2 ports or ranges of ports"`)
	s.publish()
	p.await(`document.getElementById("count").textContent === "Nothing is published."`)
	s.publish(usual()...)
	p.await(fmt.Sprintf("%s === %d", rows, len(usual())))
	require.Equal(t, 1, eval[int](p, "marker"), "the page was not loaded again")
	// As it would be by a load.
	live := eval[string](p, `[...document.querySelectorAll("#rows tr")].map(r => r.id).join()`)
	p.open("/")
	require.Equal(t, live, eval[string](p, `[...document.querySelectorAll("#rows tr")].map(r => r.id).join()`))
	p.clean()
}

// What is left is counted by the server's clock.
func (s *site) testClock(t *testing.T) {
	p := s.tab(t, 360, "light")
	p.run(chromedp.ActionFunc(func(ctx context.Context) error {
		_, err := page.AddScriptToEvaluateOnNewDocument(`const now = Date.now; Date.now = () => now() - 5 * 3600e3`).Do(ctx)
		return err
	}))
	p.open("/")
	p.await(`/^in 1h 5\dm$/.test(document.querySelector('[id="udp/3074"] time').textContent)`)
	p.await(`document.getElementById("live").textContent === "Live"`)
	first := eval[string](p, `document.querySelector('[id="udp/51820"] time').textContent`)
	p.await(fmt.Sprintf(`document.querySelector('[id="udp/51820"] time').textContent !== %q`, first))
	p.await(`/^in (1m )?\d+s$/.test(document.querySelector('[id="udp/51820"] time').textContent)`)
}

// With the token mappings are published and removed, by the keyboard.
func (s *site) testChanges(t *testing.T) {
	p := s.tab(t, 1280, "dark")
	p.open("/")
	p.await(`document.getElementById("live").textContent === "Live"`)
	require.Zero(t, eval[int](p, `[...document.querySelectorAll(".rm")].filter(b => b.offsetParent).length`))
	p.run(chromedp.Focus("#token", chromedp.ByQuery), chromedp.KeyEvent("wrong-token-wrong-token\r"))
	p.await(`document.getElementById("said").textContent === "the token is missing or wrong"`)
	p.run(chromedp.SetValue("#token", token, chromedp.ByQuery), chromedp.Focus("#token", chromedp.ByQuery), chromedp.KeyEvent("\r"))
	p.await(`document.activeElement.id === "frontend"`)
	p.run(chromedp.KeyEvent("8888\t192.168.1.5:80\tby the page\t1h\r"))
	p.await(`document.getElementById("tcp/8888") !== null`)
	require.Contains(t, eval[string](p, `document.getElementById("tcp/8888").textContent`), "by the page")
	p.run(chromedp.KeyEvent("8888\t192.168.1.6:80\r"))
	p.await(`document.getElementById("said").textContent.includes("is published as")`)
	p.accessible("document")
	p.fits()
	p.picture("changes-1280-dark")
	asked := make(chan string, 1)
	chromedp.ListenTarget(p.ctx, func(e any) {
		if e, ok := e.(*page.EventJavascriptDialogOpening); ok {
			asked <- e.Message
			go func() { _ = chromedp.Run(p.ctx, page.HandleJavaScriptDialog(true)) }()
		}
	})
	p.run(chromedp.Focus(`[id="tcp/8888"] .rm`, chromedp.ByQuery), chromedp.KeyEvent(" "))
	p.await(`document.getElementById("tcp/8888") === null`)
	require.Equal(t, "Remove tcp 8888?", <-asked)
}

// A name of another site that leads here gets nothing.
func (s *site) testHost(t *testing.T) {
	p := s.tab(t, 360, "light")
	_, port, _ := strings.Cut(s.address, ":")
	var resp *network.Response
	p.run(chromedp.ActionFunc(func(ctx context.Context) (err error) {
		resp, err = chromedp.RunResponse(ctx, chromedp.Navigate("http://evil.example:"+port+"/"))
		return err
	}))
	require.Equal(t, int64(http.StatusMisdirectedRequest), resp.Status)
}

// When the page's process comes back, the page is loaded again.
func (s *site) testRestart(t *testing.T) {
	p := s.tab(t, 360, "light")
	p.open("/")
	p.await(`document.getElementById("live").textContent === "Live"`)
	p.run(chromedp.Evaluate("marker = 1", nil))
	s.end(s.web)
	p.await(`document.getElementById("live").textContent.startsWith("Not live")`)
	s.serve()
	p.await(`typeof marker === "undefined" && document.getElementById("live").textContent === "Live"`)
}

// A page that was too slow lists all anew at once, and stays as it is otherwise.
func (s *site) testLost(t *testing.T) {
	p := s.tab(t, 1280, "light")
	p.run(chromedp.ActionFunc(func(ctx context.Context) error {
		_, err := page.AddScriptToEvaluateOnNewDocument(`
			const ask = fetch;
			marker = 0;
			fetch = (url, options) => {
				if (!String(url).startsWith("/v1/events") || marker++) return ask(url, options);
				document.getElementById("rows").innerHTML = ""; // as if lines were missing
				document.getElementById("filter").value = "nat-pmp";
				return Promise.resolve(new Response('{"type":"lost"}\n'));
			};`).Do(ctx)
		return err
	}))
	p.open("/")
	p.await(fmt.Sprintf(`%s === %d && document.getElementById("live").textContent === "Live"`, rows, len(usual())))
	require.Equal(t, 2, eval[int](p, "marker"), "the page was not loaded again")
	require.Equal(t, "1 shown", eval[string](p, `document.getElementById("shown").textContent`))
	p.clean()
}

// 5,000 mappings can be looked at, searched and followed.
func (s *site) testMany(t *testing.T) {
	var ms []request
	for i := range 5000 {
		ms = append(ms, request{Proto: "tcp", Port: 20000 + i, Backend: fmt.Sprintf("172.18.%d.%d:80", i/250, 1+i%250), Name: fmt.Sprintf("service-%d", i)})
	}
	// All at once, while pages are open.
	var open []*tab
	for range 3 {
		p := s.tab(t, 1280, "light")
		p.open("/")
		p.await(`document.getElementById("live").textContent === "Live"`)
		p.run(chromedp.Evaluate("marker = 1", nil))
		open = append(open, p)
	}
	at := time.Now()
	s.publish(ms...)
	for _, p := range open {
		p.await(rows + ` === 5000`)
		require.Equal(t, 1, eval[int](p, "marker"), "the page was not loaded again")
		p.clean()
		require.NoError(t, chromedp.Cancel(p.ctx))
	}
	t.Logf("%d pages have all after %v", len(open), time.Since(at).Round(time.Millisecond))
	for _, width := range []int64{360, 1280} {
		p := s.tab(t, width, "light")
		began := time.Now()
		p.open("/")
		p.await(rows + ` === 5000 && document.getElementById("live").textContent === "Live"`)
		t.Logf("%d px: loaded in %v", width, time.Since(began).Round(time.Millisecond))
		p.fits()
		p.run(chromedp.Focus("#filter", chromedp.ByQuery), chromedp.KeyEvent("service-4321"))
		p.await(`document.getElementById("shown").textContent === "1 shown"`)
		if width == 1280 {
			s.publish(ms[:4999]...)
			p.await(rows + ` === 4999`)
		}
		p.clean()
		require.NoError(t, chromedp.Cancel(p.ctx))
	}
}
