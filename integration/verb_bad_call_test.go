// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// badCall is a command line, given as words, that is refused.
type badCall struct {
	line string
	code int
	says string // after "nftnat: "
}

// misusedVerb is the message of a command with one argument too many.
func misusedVerb(verb string) string {
	if verb == "ls" {
		return `unknown protocol "more": tcp or udp`
	}
	return misused(verb, "")
}

// badCalls are the bad calls of other commands than add, rm and apply (badInputs), those for
// endpoints (TestEndpointBadInput) and those for networks (TestNetworkBadInput).
func badCalls(t *testing.T, m mode, daemon int) []badCall {
	t.Helper()
	const table = `invalid table "dnat": check name "dnat": it is a keyword of nft(8)`
	var all []badCall
	for _, verb := range []string{"ls", "export", "ps", "network ls", "plan", "status", "doctor", "events", "purge", "serve", "version", "demo"} {
		all = append(all,
			badCall{verb + " more", 2, misusedVerb(verb)},
			badCall{verb + " --nosuch", 2, "unknown flag: --nosuch" + helpOf(verb)},
			badCall{verb + " --quiet=perhaps", 2,
				`invalid argument "perhaps" for "--quiet" flag: strconv.ParseBool: parsing "perhaps": invalid syntax` + helpOf(verb)},
		)
	}
	engines := []string{
		"ls", "export", "ps", "network ls", "purge", "serve", "inspect web", "port web 80", "attach a", "detach web", "network rm inside",
		"network create a 10.7.0.0/24", "rm tcp 7000", "apply -f testdata/empty.yaml", "status", "doctor", "explain tcp 8080", "trace", "events", "import iptables",
	}
	for _, verb := range engines {
		all = append(all, badCall{verb + " --table dnat", 2, table}, badCall{
			verb + " --netns nosuch", 2, "open network namespace: stat /run/netns/nosuch: no such file or directory",
		})
	}
	all = append(all,
		badCall{"completion nosuch", 2, `unknown command "nosuch" for "nftnat completion"` + helpOf("completion")},
		badCall{"completion bash more", 2, `unknown command "more" for "nftnat completion bash"` + helpOf("completion bash")},
		badCall{"help nosuch", 2, `unknown help topic "nosuch" (see "nftnat help")`},
		badCall{"network nosuch", 2, `unknown command "nosuch" for "nftnat network"` + helpOf("network")},
		badCall{"plan --table dnat", 2, table},
		badCall{"plan --socket /x", 2, `--socket does nothing with "nftnat plan"` + helpOf("plan")},
		badCall{"export --json", 2, `--json does nothing with "nftnat export"` + helpOf("export")},
		badCall{"network rm inside --json", 2, `--json does nothing with "nftnat network rm"` + helpOf("network rm")},
		badCall{"import", 2, misused("import SOURCE", "import docker")},
		badCall{"import podman", 2, `invalid source "podman": docker, cni, netavark, iptables, nftables or miniupnpd`},
		badCall{"import iptables --remove-theirs", 2, "--remove-theirs is for what --apply has published" + helpOf("import")},
		badCall{"import iptables -f /proc/no", 2, "open /proc/no: no such file or directory"},
		badCall{"import iptables -f testdata/empty.yaml", 2, `invalid iptables file "testdata/empty.yaml": line 1: "mappings: []" is in no table`},
		badCall{"import docker -f testdata/empty.yaml --apply", 2, `invalid docker file "testdata/empty.yaml": it is neither what GET /containers/json answers nor what docker inspect prints: invalid character 'm' looking for beginning of value`},
		badCall{"docker nosuch", 2, `unknown command "nosuch" for "nftnat docker"` + helpOf("docker")},
		badCall{"docker watch more", 2, `wrong number of arguments: use "nftnat docker watch"` + helpOf("docker watch")},
		badCall{"cni nosuch", 2, `unknown command "nosuch" for "nftnat cni"` + helpOf("cni")},
		badCall{"gateway more", 2, misused("gateway --lan IF... --wan IF", "gateway --lan br-lan --wan eth0")},
		badCall{"web more", 2, misused("web --listen ADDR", "web --listen 192.168.1.1:8081 --host router.lan")},
		badCall{"version --table x", 2, `--table does nothing with "nftnat version"` + helpOf("version")},
		badCall{"serve --group nosuch", 2, "--group nosuch: there is no such group" + helpOf("serve")},
		badCall{"serve --group -5", 2, "--group -5: there is no such group" + helpOf("serve")},
	)
	if m.testbed == nil {
		return append(all,
			badCall{"events", 1, "follow events: ask /proc/s: no server answers: no such file or directory" +
				` ("nftnat serve", or the first command that publishes something, starts a daemon)`},
			badCall{"serve --state /proc/no/state.yaml", 2, `invalid state file "/proc/no/state.yaml": there is no directory /proc/no`},
		)
	}
	all = append(all,
		badCall{"gateway", 2, "no device of the LAN is given" + helpOf("gateway")},
		badCall{"gateway --lan lan0", 2, "no device of the WAN is given" + helpOf("gateway")},
		badCall{"gateway --lan lan0,lan0 --wan far0", 2, "lan0 is given twice" + helpOf("gateway")},
		badCall{"gateway --lan far0 --wan far0", 2, "far0 cannot be of the LAN and of the WAN" + helpOf("gateway")},
		badCall{"gateway --lan lan0 --wan far0 --igd v3", 2, `--igd: "v3" is not off, v1 or v2` + helpOf("gateway")},
		badCall{"gateway --lan lan0 --wan far0 --igd off --pcp=false", 2, "neither PCP nor IGD is to be served" + helpOf("gateway")},
		badCall{"gateway --lan lan0 --wan far0 --external-ip x", 2, `--external-ip: "x" is no address` + helpOf("gateway")},
		badCall{"gateway --lan lan0 --wan far0 --external-ip ::1", 2, "::1 is no IPv4 address of a host" + helpOf("gateway")},
		badCall{"gateway --lan lan0 --wan far0 --min-lifetime 2h --max-lifetime 1h", 2, "there is no lifetime from 2h0m0s to 1h0m0s" + helpOf("gateway")},
		badCall{"gateway --lan lan0 --wan far0 --quota -1", 2, "--quota: -1 is less than 1" + helpOf("gateway")},
		badCall{"gateway --lan lan0 --wan far0 --quota 0", 2, "--quota: 0 is less than 1" + helpOf("gateway")},
		badCall{"gateway --lan lan0 --wan far0 --min-lifetime 0s", 2, "--min-lifetime and --max-lifetime: 0s is less than a second" + helpOf("gateway")},
		badCall{"gateway --lan lan0 --wan far0 --presentation-url javascript:x", 2, `"javascript:x" is no URL of a page` + helpOf("gateway")},
		badCall{"gateway --lan lan0 --wan far0 --rules /proc/no", 2, "open /proc/no: no such file or directory"},
		badCall{"gateway --lan lan0 --wan far0 --rules testdata/empty.yaml", 2, `testdata/empty.yaml: line 1: invalid rule "mappings: []": it does not begin with allow or deny` + helpOf("gateway")},
	)
	all = append(all, badCall{"cni install --hold nosuch", 2, "--hold nosuch: own, shared or auto" + helpOf("cni install")})
	owned := fmt.Sprintf("table nftnat is owned by pid %d (uid 0) (leave out --direct to ask its daemon)", daemon)
	other := "the daemon at " + m.testbed.socket + " has the table nftnat, not other"
	for _, verb := range engines {
		if verb != "serve" {
			all = append(all, badCall{verb + " --table other", 2, other + helpOf(verb)})
		}
	}
	if labtest.LeaveOut(t, "two commands that wait 10 s for a table which has an owner") {
		return all
	}
	// All commands that change something wait for the table in the same way, for ten seconds.
	return append(all, badCall{"apply -f testdata/empty.yaml --direct", 3, owned}, badCall{"purge --direct", 3, owned})
}

// listedVerb matches a command in the output of help.
var listedVerb = regexp.MustCompile(`(?m)^  ([a-z]+) +[A-Z]`)

// Every command refuses unknown arguments and impossible changes in one line, with its exit
// status, and changes nothing, with a daemon and without.
func TestBadCalls(t *testing.T) {
	t.Parallel() // it waits
	inEachMode(t, lab.PartBackend1, func(t *testing.T, top *lab.Topology, m mode) {
		t.Helper()
		load(t, top.Host, foreignRuleset(t))
		m.do(t, "network create inside 172.30.0.0/24")
		m.do(t, "attach web --network inside -p 8080:80")
		m.do(t, "add tcp 7000 172.30.0.2:70")
		nowhere, daemon := "", 0
		if m.testbed != nil {
			daemon = m.testbed.daemon(t)
		} else {
			nowhere = "--socket /proc/s " // where no socket can be
		}
		before, held := fingerprint(t, top.Host), sockets(t, top.Host)
		tried := map[string]bool{}
		for _, c := range badCalls(t, m, daemon) {
			args := strings.Fields(nowhere + c.line)
			if slices.ContainsFunc(args, func(word string) bool { return slices.Contains(neverAsks, word) }) {
				args = strings.Fields(c.line)
			}
			r := m.ask(t, "", args...)
			require.Equal(t, "nftnat: "+c.says+"\n", r.Stderr, c.line)
			require.Equal(t, c.code, r.Code, c.line)
			require.Empty(t, r.Stdout, c.line)
			require.Equal(t, before, fingerprint(t, top.Host), c.line)
			verb, _, _ := strings.Cut(c.line, " ")
			tried[verb] = true
		}
		require.Equal(t, held, sockets(t, top.Host))
		for _, c := range badInputs(t, m) {
			tried[c.args[0]] = true
		}
		for _, found := range listedVerb.FindAllStringSubmatch(m.do(t, "help"), -1) {
			require.True(t, tried[found[1]], "no bad call of %s is tried", found[1])
		}
	})
}
