// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/migrate/internal/chains"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/state"
)

var update = flag.Bool("update", false, "write the golden files")

var now = time.Unix(1_800_000_000, 0)

// TestGolden: each file testdata/SOURCE-NAME.EXT is imported as SOURCE-NAME.yaml says, which apply reads.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*")
	require.NoError(t, err)
	n := 0
	for _, file := range files {
		if filepath.Ext(file) == ".yaml" {
			continue
		}
		n++
		base := strings.TrimSuffix(file, filepath.Ext(file))
		t.Run(filepath.Base(base), func(t *testing.T) {
			word, _, _ := strings.Cut(filepath.Base(base), "-")
			source, err := ParseSource(word)
			require.NoError(t, err)
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			im, err := Read(context.Background(), Options{Source: source, File: filepath.Base(file), Data: data, Now: now})
			require.NoError(t, err)
			var text bytes.Buffer
			require.NoError(t, im.Write(&text))
			golden := base + ".yaml"
			if *update {
				require.NoError(t, os.WriteFile(golden, text.Bytes(), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			require.Equal(t, string(want), text.String())
			s, err := state.Decode(&text, "import")
			if len(im.Entries) == 0 {
				require.ErrorIs(t, err, nat.ErrInvalid, "apply would remove everything")
				return
			}
			require.NoError(t, err)
			require.Equal(t, nat.Collapse(im.Mappings()), nat.Collapse(s.Mappings))
		})
	}
	require.Positive(t, n)
}

// What a record says is published by rules, which may mark it.
func TestMarkedRecord(t *testing.T) {
	const head, tail = "*nat\n:PREROUTING ACCEPT [0:0]\n", "-A PREROUTING -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.88.0.2:80\nCOMMIT\n"
	for source, reason := range map[string]string{
		"":                   markedBy + "iptables -t nat -A PREROUTING -p tcp -m tcp --dport 8080 -j MARK --set-xmark 0x1/0x1",
		"-s 10.0.0.0/8 ":     markedBy + "iptables -t nat -A PREROUTING -s 10.0.0.0/8 -p tcp -m tcp --dport 8080 -j MARK --set-xmark 0x1/0x1",
		"-s 10.88.0.0/16 ":   "",
		"-s 10.88.0.128/25 ": "",
		"-s 127.0.0.1/32 ":   "",
		"-d 10.0.0.1/32 ":    "",
	} {
		rs, err := chains.Parse([]byte(head + "-A PREROUTING " + source + "-p tcp -m tcp --dport 8080 -j MARK --set-xmark 0x1/0x1\n" + tail))
		require.NoError(t, err)
		h := &host{live: true, networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("10.88.0.0/16")}}
		require.NoError(t, h.walk(rs))
		im := &Import{ports: map[portKey][]int{}, drop: map[int]string{}}
		m, err := nat.ParseMappingText("192.0.2.1:8080->10.88.0.2:80")
		require.NoError(t, err)
		im.add(Entry{Mapping: m, Origins: []string{"container web"}})
		h.addrs = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
		im.finish(h)
		if reason == "" {
			require.Len(t, im.Entries, 1, source)
			continue
		}
		require.Empty(t, im.Entries, source)
		require.Equal(t, []LeftOut{{"container web", reason}}, im.LeftOut)
	}
}

// What one source has published, others find published: not again, and not otherwise.
func TestPublishedAlready(t *testing.T) {
	p, err := nat.ParseMappingText("8080->172.17.0.2:80")
	require.NoError(t, err)
	p.Name, p.Hold = "web", nat.HoldShared
	const text = "*nat\n:DOCKER - [0:0]\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j DOCKER\n" +
		"-A DOCKER -d 192.0.2.1/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80\n" +
		"-A DOCKER -d 192.0.2.2/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80\n" +
		"-A DOCKER -p tcp -m tcp --dport 8081 -j DNAT --to-destination 172.17.0.2:80\nCOMMIT\n"
	im, err := Read(context.Background(), Options{Source: IPTables, File: "f", Data: []byte(text), Published: []nat.Mapping{p}})
	require.NoError(t, err)
	require.Len(t, im.Entries, 2)
	require.Equal(t, p, im.Entries[0].Mapping)
	require.Len(t, im.Entries[0].Origins, 2)
	require.Equal(t, "0.0.0.0:8081->172.17.0.2:80", im.Entries[1].Mapping.String())
	require.Equal(t, []string{"nftnat import docker has it as well, with what is not in rules"}, im.Entries[1].Notes)
}

// A record without a port of the host is none of a port that is chosen.
func TestNoHostPort(t *testing.T) {
	im, err := Read(context.Background(), Options{Source: Netavark, File: "f", Data: []byte(`{"port_mappings":[{"container_port":1,"protocol":"tcp"}],"networks":{"n":{"static_ips":["10.0.0.2"]}}}`)})
	require.NoError(t, err)
	require.Empty(t, im.Entries)
	require.Equal(t, "it has no port of the host", im.LeftOut[0].Reason)
}

// Another host's dockerd is not asked, nor this one's in its place.
func TestDockerHost(t *testing.T) {
	for _, env := range []string{"tcp://127.0.0.1:2375", "ssh://me@192.0.2.1", "unix://", "/run/docker.sock"} {
		t.Setenv("DOCKER_HOST", env)
		_, err := Read(context.Background(), Options{Source: Docker})
		require.ErrorIs(t, err, nat.ErrInvalid)
		require.ErrorContains(t, err, fmt.Sprintf("invalid DOCKER_HOST %q: the dockerd of this host is asked, by a Unix socket, as in unix:///var/run/docker.sock", env))
	}
	t.Setenv("DOCKER_HOST", "unix:///nowhere")
	_, err := Read(context.Background(), Options{Source: Docker})
	require.ErrorIs(t, err, nat.ErrNotFound)
}

func TestBadFiles(t *testing.T) {
	for _, c := range []struct {
		source Source
		text   string
		says   string
	}{
		{Docker, "", "it is neither what GET /containers/json answers nor what docker inspect prints: it is empty"},
		{Docker, "{}", "cannot unmarshal object"},
		{Docker, "[] []", "there is more behind its end"},
		{Docker, `[{"Ports":[{"PublicPort":70000}]}]`, "cannot unmarshal number 70000"},
		{Docker, `[{"Ports":[{"IP":"x","PublicPort":80,"PrivatePort":80,"Type":"tcp"}]}]`, `"x" is no address`},
		{Docker, `[{"NetworkSettings":{"Ports":{"x/tcp":[{"HostIp":"","HostPort":"80"}]}}}]`, `"x/tcp" is no port`},
		{CNI, "", "it is no result of a CNI plugin: it is empty"},
		{CNI, "{}", "it has no result"},
		{CNI, "[1]", "cannot unmarshal number"},
		{Netavark, "{}", "it has no networks"},
		{Netavark, `{"networks":{"a":{"static_ips":["x"]}}}`, `"x" is no address`},
		{Netavark, "x", `line 1: "x" is in no table`},
		{IPTables, "x", `line 1: "x" is in no table`},
		{NFTables, "table ip nat { }", "it is not what nft --json list ruleset prints: invalid character"},
		{NFTables, "{}", `it has no "nftables"`},
		{NFTables, `{"nftables":[{"rule":{"family":"ip","table":"t","chain":"x"}},{"chain":{"family":"ip","table":"t","name":"c"}}]}`, `object 1: there is no chain "x"`},
		{NFTables, `{"nftables":[{"a":1,"b":2}]}`, "object 1: it has not one key"},
		{NFTables, `{"nftables":[{"chain":3}]}`, "object 1: json: cannot unmarshal number"},
		{Miniupnpd, "x", "line 1: it is not PROTO:PORT:ADDRESS:PORT:EXPIRY:DESCRIPTION"},
		{Miniupnpd, "TCP:0:10.0.0.1:80:0:x", `line 1: "0" and "80" are not ports`},
		{Miniupnpd, "\nSCTP:1:10.0.0.1:80:0:x", `line 2: "SCTP" is neither TCP nor UDP`},
		{Miniupnpd, "TCP:1:10.0.0.1:80:-1:x", `line 1: "-1" is no time`},
		{Miniupnpd, "TCP:1:x:80:0:x", `line 1: "x" is no address`},
	} {
		_, err := Read(context.Background(), Options{Source: c.source, File: "f", Data: []byte(c.text)})
		require.ErrorIs(t, err, nat.ErrInvalid, c.text)
		require.ErrorContains(t, err, c.says)
		require.NotContains(t, err.Error(), "\n")
	}
}

// Small values of JSON are large when they have been read: there may be as many rules as text may have.
func TestManyValues(t *testing.T) {
	const rule = `{"rule":{"family":"ip","table":"t","chain":"c","expr":[]}},`
	list := func(text string, n int) string { return strings.TrimSuffix(strings.Repeat(text, n), ",") }
	for _, c := range []struct {
		source Source
		text   string
		says   string
	}{
		{Docker, "[" + list("{},", 600_000) + "]", "it has more than 1048576 values"},
		{CNI, "[" + list(`"[",`, 1<<20+1) + "]", "it has more than 1048576 values"},
		{NFTables, `{"nftables":[` + list(`{"a":1},`, 1<<20) + "]}", "it has more than 2097152 values"},
		{NFTables, `{"nftables":[{"chain":{"family":"ip","table":"t","name":"c"}},` + list(rule, 1<<16+1) + "]}", "object 65538: there are more than 65536 rules"},
		{NFTables, `{"nftables":[{"chain":{"family":"ip","table":"t","name":"c"}},` + strings.Replace(list(rule, 1), "[]", "["+list(`{"a":1},`, 129)+"]", 1) + "]}", "object 2: the rule has more than 128 expressions"},
		{NFTables, `{"nftables":[` + strings.Repeat(`{"a":[`, 40), "its values are nested more than 64 deep"},
		{IPTables, "*nat\n" + manyChains() + "COMMIT\n", "there are more than 65536 chains"},
	} {
		_, err := Read(context.Background(), Options{Source: c.source, File: "f", Data: []byte(c.text)})
		require.ErrorIs(t, err, nat.ErrInvalid)
		require.ErrorContains(t, err, c.says)
	}
}

func manyChains() string {
	var text strings.Builder
	for i := range 1<<16 + 1 {
		fmt.Fprintf(&text, ":A%d - [0:0]\n", i)
	}
	return text.String()
}

// A map of verdicts has verdicts, and no other statements, by which it might look itself up.
func TestVerdictsOfVerdicts(t *testing.T) {
	const text = `{"nftables":[{"chain":{"family":"ip","table":"t","name":"c","type":"nat","hook":"prerouting","prio":-100}},
		{"map":{"family":"ip","table":"t","name":"m","elem":[[80,{"vmap":{"key":{"payload":{"protocol":"tcp","field":"dport"}},"data":"@m"}}]]}},
		{"rule":{"family":"ip","table":"t","chain":"c","handle":2,"expr":[{"vmap":{"key":{"payload":{"protocol":"tcp","field":"dport"}},"data":"@m"}}]}},
		{"rule":{"family":"ip","table":"t","chain":"c","handle":3,"expr":[{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":80}},{"dnat":{"addr":"10.0.0.1"}}]}}]}`
	im, err := Read(context.Background(), Options{Source: NFTables, File: "f", Data: []byte(text)})
	require.NoError(t, err)
	require.Empty(t, im.Entries)
	require.Contains(t, im.LeftOut[0].Reason, "a rule before it may take its packets: ")
}

// All elements of a long map are read.
func TestLongMap(t *testing.T) {
	elements := make([]string, 5000)
	for i := range elements {
		elements[i] = fmt.Sprintf(`[%d,"10.0.0.%d"]`, i+1000, i%250+1)
	}
	text := `{"nftables":[{"chain":{"family":"ip","table":"t","name":"c","type":"nat","hook":"prerouting","prio":-100}},
		{"rule":{"family":"ip","table":"t","chain":"c","handle":2,"expr":[{"dnat":{"addr":{"map":{"key":{"payload":{"protocol":"tcp","field":"dport"}},"data":{"set":[` +
		strings.Join(elements, ",") + `]}}}}}]}}]}`
	im, err := Read(context.Background(), Options{Source: NFTables, File: "f", Data: []byte(text)})
	require.NoError(t, err)
	require.Len(t, im.Entries, len(elements))
}

func TestSources(t *testing.T) {
	for _, s := range Sources() {
		back, err := ParseSource(s.String())
		require.NoError(t, err)
		require.Equal(t, s, back)
	}
	_, err := ParseSource("podman")
	require.ErrorIs(t, err, nat.ErrInvalid)
	require.Equal(t, "invalid", Source(0).String())
	require.ErrorIs(t, ErrNothing, nat.ErrNotFound)
}

// fuzz imports a file, and wants one line of an error, or mappings that are valid and that apply takes.
func fuzz(f *testing.F, source Source) {
	f.Helper()
	files, err := filepath.Glob("testdata/" + source.String() + "-*")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		im, err := Read(context.Background(), Options{Source: source, File: "f", Data: text, Now: now})
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has several lines: %q", err)
			}
			return
		}
		var out bytes.Buffer
		if err := im.Write(&out); err != nil {
			t.Fatal(err)
		}
		if len(im.Entries) == 0 {
			return
		}
		if err := nat.ValidateAll(im.Mappings()...); err != nil {
			t.Error(err)
		}
		if _, err := state.Decode(&out, "f"); err != nil {
			t.Errorf("%v\n%s", err, out.String())
		}
	})
}

func FuzzDocker(f *testing.F)    { fuzz(f, Docker) }
func FuzzCNI(f *testing.F)       { fuzz(f, CNI) }
func FuzzNetavark(f *testing.F)  { fuzz(f, Netavark) }
func FuzzIPTables(f *testing.F)  { fuzz(f, IPTables) }
func FuzzNFTables(f *testing.F)  { fuzz(f, NFTables) }
func FuzzMiniupnpd(f *testing.F) { fuzz(f, Miniupnpd) }
