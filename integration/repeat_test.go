// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// The same command again succeeds and changes nothing, and rm accepts what is printed, with a
// daemon and without.
func TestRepeatAndRemove(t *testing.T) {
	inEachMode(t, lab.PartBackend1, func(t *testing.T, top *lab.Topology, m mode) {
		t.Helper()
		labtest.EchoTCP(t, top.Backend1, "web", ":80")
		lines := []string{
			"network create inside 172.30.0.0/24", "attach web --network inside --ip 172.30.0.2 -p 90:80 -p 53/udp",
			"add tcp 8080 172.30.0.2:80 --name shop", "add udp [2001:db8:1::1]:7000-7009 [fd00:30::2]:8000-8009 --name shop --no-proxy",
			"add tcp 8082 172.30.0.2:80",
		}
		printed := map[string]string{}
		for _, line := range lines {
			printed[line] = m.do(t, line)
		}
		before := ruleset(t, top.Host)
		for _, line := range append(lines, lines[2]+" --replace") {
			want := printed[strings.TrimSuffix(line, " --replace")]
			require.Equal(t, want, m.do(t, line), line)
			require.Equal(t, before, ruleset(t, top.Host), line)
		}
		labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")

		require.Equal(t, "8080->172.30.0.2:80\n", m.do(t, "add tcp 8080 172.30.0.2:80 --replace --ttl 1d"))
		require.Regexp(t, `(?m)^tcp    8080      172.30.0.2:80  shop  yes    in (23|24)h$`, m.do(t, "ls tcp --name shop"))
		var docs []map[string]any
		require.NoError(t, json.Unmarshal([]byte(m.do(t, "ls --name shop --json tcp")), &docs))
		require.Len(t, docs, 1)
		_, err := time.Parse(time.RFC3339, docs[0]["expires"].(string))
		require.NoError(t, err)
		require.Equal(t, 3, strings.Count(m.do(t, "ls tcp"), "tcp  "))

		m.do(t, "add tcp 8080 172.30.0.2:80 --replace") // without a time-out, so that nothing changes by itself
		m.refuse(t, "rm 8080->172.30.0.2:81", 4, `unpublish tcp 8080: 8080->172.30.0.2:81 is not published: tcp 8080 is published as 8080->172.30.0.2:80 by "shop"`)
		require.Equal(t, "8082->172.30.0.2:80\n", m.do(t, "rm 8082"))
		require.Equal(t, printed[lines[3]], m.do(t, "rm "+strings.TrimSpace(printed[lines[3]])))
		m.do(t, lines[3])
		require.Equal(t, "8080->172.30.0.2:80\n"+printed[lines[3]], m.do(t, "remove --name shop"))
		require.Error(t, labtest.NoAnswer(t, top.Client, "tcp", "192.0.2.1:8080"))
		m.refuse(t, "rm --name shop", 4, `unpublish all of "shop": there is no mapping named "shop"`)
		labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:90", "web")
	})
}

// Notes about a change are the same with a daemon and without, and not printed with --quiet.
func TestNotesOfChanges(t *testing.T) {
	for _, quiet := range []string{"", " --quiet"} {
		var says []string
		for _, daemon := range []bool{true, false} {
			top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
			m := mode{ns: top.Host}
			if daemon {
				m.testbed = newTestbed(t, top.Host)
			}
			r := m.ask(t, "", strings.Fields("add tcp 8080 172.30.0.2:80"+quiet)...)
			require.Zero(t, r.Code, r.Stderr)
			says = append(says, r.Stderr)
			r = m.ask(t, "", strings.Fields("add tcp 8081 172.30.0.2:80"+quiet)...)
			require.Empty(t, r.Stderr, "it is on")
		}
		require.Equal(t, says[0], says[1])
		if quiet != "" {
			require.Empty(t, says[0])
		} else {
			require.Equal(t, "nftnat: turned on forwarding: sysctl=net/ipv4/ip_forward was=0 is=1\n", says[0])
		}
	}
}

// The API's status shows whether anything was changed.
func TestRepeatStatus(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	s.serve(t)
	client := s.client()
	post := func(path, body string) *http.Response {
		resp, err := client.Post("http://nftnat"+path, "application/json", strings.NewReader(body))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp
	}
	for _, x := range [][2]string{
		{"/v1/mappings", `[{"proto":"tcp","port":8080,"backend":"172.30.0.2:80"}]`},
		{"/v1/networks", `{"name":"inside","prefix":"172.30.0.0/24"}`},
		{"/v1/endpoints", `{"name":"web","network":"inside","ports":["53/udp"]}`},
	} {
		first := post(x[0], x[1])
		require.Equal(t, http.StatusCreated, first.StatusCode)
		if x[0] == "/v1/mappings" {
			require.Equal(t, []string{"turned on forwarding: sysctl=net/ipv4/ip_forward was=0 is=1"}, first.Header.Values("Nftnat-Note"))
		}
		again := post(x[0], x[1])
		require.Equal(t, http.StatusOK, again.StatusCode)
		require.Empty(t, again.Header.Values("Nftnat-Note"))
	}
}
