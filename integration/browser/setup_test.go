// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

const token = "0123456789abcdef"

// site is a daemon, a gateway that is not one, and a page about them.
type site struct {
	*testing.T
	program, dir, address string
	web                   *exec.Cmd
	browser               context.Context
}

// newSite starts all that the tests share.
func newSite(t *testing.T) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "page-") // short, as paths of sockets are
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &site{T: t, program: filepath.Join(dir, "nftnat"), dir: dir, address: "127.0.0.1:0"}
	build := exec.Command("go", "build", "-o", s.program, "./cmd/nftnat")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.WriteFile(s.path("token"), []byte(token), 0o600))
	s.daemon()
	s.gateway()
	s.serve()
	t.Cleanup(func() { s.end(s.web) })
	s.startBrowser()
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// daemon runs nftnat serve in a network namespace of its own.
func (s *site) daemon() {
	s.Helper()
	cmd := exec.Command(s.program, "serve", "--socket", s.path("nftnat.sock"), "--quiet")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	require.NoError(s, cmd.Start())
	s.Cleanup(func() { s.end(cmd) })
	require.Eventually(s, func() bool {
		resp, _, err := s.ask("GET", "/v1/status", "")
		return err == nil && resp.StatusCode == http.StatusOK
	}, time.Minute, 20*time.Millisecond)
}

func (s *site) end(cmd *exec.Cmd) {
	s.Helper()
	require.NoError(s, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(s, cmd.Wait())
}

// ask asks the daemon.
func (s *site) ask(method, path, body string) (*http.Response, []byte, error) {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.path("nftnat.sock"))
	}}}
	r, err := http.NewRequest(method, "http://nftnat"+path, bytes.NewBufferString(body))
	if err != nil {
		return nil, nil, err
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return resp, text, err
}

// publish makes mappings the only ones.
func (s *site) publish(ms ...request) {
	s.Helper()
	if ms == nil {
		ms = []request{}
	}
	body, err := json.Marshal(ms)
	require.NoError(s, err)
	resp, text, err := s.ask("PUT", "/v1/mappings", string(body))
	require.NoError(s, err)
	require.Equal(s, http.StatusOK, resp.StatusCode, "%s", text)
}

// request is a mapping as the daemon is asked for it.
type request struct {
	Proto   string   `json:"proto"`
	Host    string   `json:"host,omitempty"`
	Port    int      `json:"port"`
	Backend string   `json:"backend"`
	Name    string   `json:"name,omitempty"`
	TTL     string   `json:"ttl,omitempty"`
	From    []string `json:"from,omitempty"`
	Count   int      `json:"count,omitempty"`
}

// gateway answers as a gateway does, once leases says so.
func (s *site) gateway() {
	s.Helper()
	l, err := net.Listen("unix", s.path("gateway.sock"))
	require.NoError(s, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		text, err := os.ReadFile(s.path("gateway.json"))
		if err != nil {
			text = []byte(`{"version":"1","address":"198.51.100.7","leases":[],"refusals":[]}`)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(text)
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(l) }()
	s.Cleanup(func() { _ = server.Close(); <-served })
}

// leases makes a document that of the gateway.
func (s *site) leases(doc any) {
	s.Helper()
	text, err := json.Marshal(doc)
	require.NoError(s, err)
	require.NoError(s, os.WriteFile(s.path("gateway.new"), text, 0o600))
	require.NoError(s, os.Rename(s.path("gateway.new"), s.path("gateway.json")))
}

var servingLine = regexp.MustCompile(`serving the page: address=(\S+)`)

// serve runs nftnat web.
func (s *site) serve() {
	s.Helper()
	s.web = exec.Command(s.program, "web", "--listen", s.address, "--socket", s.path("nftnat.sock"), "--token-file", s.path("token"), "--gateway", s.path("gateway.sock"))
	s.web.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := s.web.StderrPipe()
	require.NoError(s, err)
	require.NoError(s, s.web.Start())
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if m := servingLine.FindStringSubmatch(lines.Text()); m != nil {
			s.address = m[1]
			go func() { _, _ = io.Copy(io.Discard, stderr) }() // ends with the process
			return
		}
		s.Log(lines.Text())
	}
	s.Fatal("nftnat web has ended")
}

// startBrowser starts a browser, in which a name of another site leads to the page.
func (s *site) startBrowser() {
	s.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium(s.T)), chromedp.NoSandbox,
		chromedp.Flag("host-resolver-rules", "MAP evil.example 127.0.0.1"), chromedp.Flag("disable-dev-shm-usage", true))
	allocated, cancel := chromedp.NewExecAllocator(s.Context(), options...)
	s.Cleanup(cancel)
	browser, cancel := chromedp.NewContext(allocated)
	s.Cleanup(cancel)
	require.NoError(s, chromedp.Run(browser))
	s.browser = browser
}

func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("NFTNAT_TEST_NETNS") == "require" {
		t.Fatal("no Chromium")
	}
	t.Skip("no Chromium")
	return ""
}

// tab is a tab of the browser.
type tab struct {
	*testing.T
	*site
	ctx context.Context

	mu       sync.Mutex
	requests []string
	wrong    []string // exceptions, and what the browser complains of
}

// tab opens a tab, of a width, for a while.
func (s *site) tab(t *testing.T, width int64, scheme string) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(s.browser)
	t.Cleanup(cancel)
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	t.Cleanup(stop)
	p := &tab{T: t, site: s, ctx: ctx}
	chromedp.ListenTarget(ctx, func(e any) {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch e := e.(type) {
		case *network.EventRequestWillBeSent:
			p.requests = append(p.requests, e.Request.Method+" "+e.Request.URL)
		case *runtime.EventExceptionThrown:
			p.wrong = append(p.wrong, e.ExceptionDetails.Error())
		case *log.EventEntryAdded:
			p.wrong = append(p.wrong, e.Entry.Text)
		}
	})
	p.run(network.Enable(), log.Enable(), chromedp.EmulateViewport(width, 800),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}))
	return p
}

func (p *tab) run(actions ...chromedp.Action) {
	p.T.Helper()
	require.NoError(p.T, chromedp.Run(p.ctx, actions...))
}

func (p *tab) open(path string) {
	p.T.Helper()
	p.run(chromedp.Navigate("http://" + p.address + path))
}

// eval is the value of an expression.
func eval[V any](p *tab, expression string) (v V) {
	p.T.Helper()
	p.run(chromedp.Evaluate(expression, &v))
	return v
}

// await waits until an expression is true.
func (p *tab) await(expression string) {
	p.T.Helper()
	var last any
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		var v any
		if err := chromedp.Run(p.ctx, chromedp.Evaluate(expression, &v)); err != nil {
			v = err // as while a page is loaded
		}
		if last = v; v == true {
			return
		}
	}
	p.T.Fatalf("waited in vain for %s: %v\n%s", expression, last, eval[string](p, "document.body.innerText"))
}

// sent returns and forgets the requests so far.
func (p *tab) sent() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.requests
	p.requests = nil
	return all
}

// clean fails if the browser has complained.
func (p *tab) clean() {
	p.T.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	require.Empty(p.T, p.wrong)
}

// picture stores a screenshot of the whole page if NFTNAT_SCREENSHOTS is a directory.
func (p *tab) picture(name string) {
	p.T.Helper()
	dir := os.Getenv("NFTNAT_SCREENSHOTS")
	if dir == "" {
		return
	}
	var png []byte
	p.run(chromedp.FullScreenshot(&png, 100))
	require.NoError(p.T, os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644))
}

// accessible fails if axe-core finds something serious in a part of the page.
func (p *tab) accessible(part string) {
	p.T.Helper()
	axe, err := os.ReadFile("node_modules/axe-core/axe.min.js")
	require.NoError(p.T, err, "npm ci fetches it")
	p.run(chromedp.Evaluate(string(axe)+";0", nil))
	var found []struct {
		ID, Impact, Help string
		Nodes            []struct{ HTML, FailureSummary string }
	}
	p.run(chromedp.Evaluate(`axe.run(`+part+`).then(r => r.violations)`, &found, func(e *runtime.EvaluateParams) *runtime.EvaluateParams { return e.WithAwaitPromise(true) }))
	for _, v := range found {
		text, err := json.MarshalIndent(v, "", " ")
		require.NoError(p.T, err)
		require.NotContains(p.T, []string{"serious", "critical"}, v.Impact, "%s", text)
		p.T.Logf("%s: %s: %s", v.Impact, v.ID, v.Help)
	}
}

// fits fails if the page is wider than the window.
func (p *tab) fits() {
	p.T.Helper()
	require.LessOrEqual(p.T, eval[int](p, `document.documentElement.scrollWidth`), eval[int](p, `innerWidth`), "the page scrolls sideways")
}
