// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/buildinfo"
	"github.com/nftnat/nftnat/nat"
)

// everything is all metrics that a daemon can tell.
func everything(t *testing.T) exposition {
	t.Helper()
	var e exposition
	writeBuild(&e, buildinfo.Info{Version: "0.1.0", Commit: "a", Go: "go1"})
	writeMappings(&e, api.MappingCounts{}, engine.Status{})
	writeTable(&e, engine.Status{})
	writeForwarding(&e, engine.Status{})
	(&findings{}).writeMetrics(t.Context(), &e)
	writeProxies(&e, engine.Status{})
	writeConntrack(&e, engine.Status{})
	newChangeLog(slog.New(slog.DiscardHandler)).writeMetrics(&e, engine.EventCounts{})
	writeConnections(&e, []nat.Connections{{Mapping: mapped(t, "web", "8080->172.17.0.2:80"), Translated: 1}}, 1)
	writeRuntime(&e)
	writeProcess(&e, time.Now())
	return e
}

// Prometheus' own linter has nothing to say.
func TestMetricsLint(t *testing.T) {
	e := everything(t)
	problems, err := promlint.New(bytes.NewReader(e.text)).Lint()
	require.NoError(t, err)
	require.Empty(t, problems)
}

// The alert rules and the dashboard that are shipped ask for metrics that there are.
func TestMonitoringNames(t *testing.T) {
	families := read(t, everything(t))
	name := regexp.MustCompile(`\b(?:nftnat|process|go)_[a-z_]+\b`)
	for file, least := range map[string]int{
		"../../packaging/prometheus/nftnat.rules.yml": 9, "../../packaging/grafana/nftnat.json": 15,
	} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		asked := map[string]bool{}
		for _, n := range name.FindAllString(string(text), -1) {
			asked[n] = true
			require.Contains(t, families, n, file)
		}
		require.GreaterOrEqual(t, len(asked), least, file)
	}
	doc, err := os.ReadFile("../../docs/monitoring.md")
	require.NoError(t, err)
	for n := range families {
		if strings.HasPrefix(n, "nftnat_") {
			require.Contains(t, string(doc), "`"+n, "docs/monitoring.md does not say what it means")
		}
	}
}

// The dashboard is one that Grafana can import: panels with places of their own, queries,
// and the data source that is chosen.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../../packaging/grafana/nftnat.json")
	require.NoError(t, err)
	var d struct {
		Title, UID string
		Panels     []struct {
			ID         int
			Title      string
			Datasource struct{ UID string }
			GridPos    struct{ X, Y, W, H int }
			Targets    []struct{ Expr, RefID string }
		}
		Templating struct{ List []struct{ Name string } }
	}
	require.NoError(t, json.Unmarshal(text, &d))
	require.Equal(t, "nftnat", d.Title)
	ids, cells := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		require.False(t, ids[p.ID], p.Title)
		ids[p.ID] = true
		require.Equal(t, "${datasource}", p.Datasource.UID, p.Title)
		require.NotEmpty(t, p.Targets, p.Title)
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				require.Less(t, at[0], 24, p.Title)
				require.Empty(t, cells[at], p.Title)
				cells[at] = p.Title
			}
		}
		for _, target := range p.Targets {
			require.Contains(t, target.Expr, `job=~"$job",instance=~"$instance"`, p.Title)
		}
	}
	var names []string
	for _, v := range d.Templating.List {
		names = append(names, v.Name)
	}
	require.Equal(t, []string{"datasource", "job", "instance"}, names)
}

// The rules mean what they say, by Prometheus' own tool.
func TestAlertRules(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("NFTNAT_TEST_NETNS") == "require" {
			t.Fatal("promtool is not there (Debian: prometheus)")
		}
		t.Skip("promtool is not there (Debian: prometheus)")
	}
	for _, args := range [][]string{
		{"check", "rules", "--lint=all", "--lint-fatal", "nftnat.rules.yml"}, {"test", "rules", "nftnat.rules.test.yml"},
	} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = "../../packaging/prometheus"
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "promtool %s: %s", strings.Join(args, " "), out)
	}
}
