// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

func TestDecodePlainTakes(t *testing.T) {
	for _, text := range []string{
		"mappings:\n  - 8080->172.17.0.2:80\n",
		"mappings:\n- 8080->172.17.0.2:80",
		"# c\nversion: 1\n\nmappings:\n- 8080->172.17.0.2:80\n...\n# c\n\n",
		"# head\n\nmappings:  \n   \n   -   8080->172.17.0.2:80  \n# é\n      # deep\n\n   - 8080->172.17.0.2:80/udp\n\n",
		"mappings:\n- \"[::1]:80->[fd00::2]:80\"\n- '8000-8009->[FD00::abcd]:9000-9009/udp'\n",
		"mappings:\n- {mapping: \"53->172.17.0.2:53/udp\", name: dns, proxy: false, expires: 2027-01-01T00:00:00Z}\n",
		"mappings:\n- {mapping: \"53->172.17.0.2:53/udp\", name: \"Zoë's {web}, 1: #2\"}\n",
		"mappings:\n- {mapping: \"53->172.17.0.2:53/udp\", expires: 2027-01-01T02:00:00.5+02:00}\n",
		"mappings:\n- {mapping: \"53->172.17.0.2:53/udp\"}\n",
		"networks:\n- {name: inside, prefix: 172.30.0.0/24}\nmappings: []\n",
		"# all\nnetworks: \n  - {name: inside, prefix: 172.30.0.0/24, gateway: 172.30.0.1, next: 172.30.0.9, masquerade: false, guard: false}\n" +
			"  - {name: \"6.x\", prefix: \"fd00:30::/64\", gateway: \"fd00:30::1\", next: \"fd00:30::\"}\n# c\n\nendpoints:\n" +
			" - {name: web, network: inside, address: 172.30.0.2, ports: [\"8080:80\", \"127.0.0.1:53:53/udp\", \"192.0.2.1:8000-8009:9000-9009\"]}\n" +
			" - {name: six, address: \"fd00:30::7\"}\nmappings:\n- 81->172.30.0.2:80\n",
		"networks:\n- {name: a, prefix: 172.30.0.0/24, guard: false}\nendpoints:\n- {name: web, address: 172.30.0.2}",
		"networks:\n- {name: \"a\", prefix: 172.30.0.0/31}\nendpoints:\n- {name: web, network: \"a\", address: 172.30.0.1, ports: [\":53/udp\"]}\n\nmappings: []  \n# end\n",
	} {
		fast, ok := decodePlain(text)
		require.True(t, ok, "%q", text)
		slow, err := decodeYAML(text)
		require.Nil(t, err, "%q", text)
		require.Equal(t, slow, fast, "%q", text)
	}
}

// What it must leave to the library, as YAML means something else by it than a
// reader of lines would, or as it is wrong and needs its line named.
func TestDecodePlainLeaves(t *testing.T) {
	const ok = "mappings:\n- 80->1.2.3.4\n"
	const net, web = "networks:\n- {name: a, prefix: 10.0.0.0/8}\n", "endpoints:\n- {name: web, address: 10.0.0.2"
	for _, text := range []string{
		"", "# only\n", "mappings:\n", "mappings: []\n", " mappings:\n - 80->1.2.3.4\n", "mappings :\n- 80->1.2.3.4\n",
		ok + "mappings:\n- 81->1.2.3.4\n", ok + "networks: []\n", ok + "---\n", ok + "...\n...\n", ok + "...\n- 81->1.2.3.4\n", "...\n" + ok, "mappings:\n...\n", "version: 1\n", "version: 2\n" + ok, "version: 1\nversion: 1\n" + ok, ok + "version: 1\n", "---\n" + ok, "%YAML 1.2\n" + ok,
		ok + "  81->1.2.3.4\n", ok + "\n  x\n", ok + "# c\n  x\n", ok + " - 81->1.2.3.4\n", ok + "  - 81->1.2.3.4\n",
		ok + "-81->1.2.3.4\n", ok + "-\n", ok + "- \n", ok + "-\t81->1.2.3.4\n", ok + "\t- 81->1.2.3.4\n", ok + "\t\n",
		ok + "- 81->fd00::\n", ok + "- 81->1.2.3.4:\n", ok + "- 81->1.2.3.4 # c\n", ok + "- 81->1.2.3.4\r\n", ok + "# \x01\n", ok + "# \xff\n",
		ok + "- [::1]:81->[fd00::2]:80\n", ok + "- \"81->1.2.3.4\n", ok + "- \"\n", ok + "- \"\"\n", ok + "- \"81->1.2.3.4'\n", ok + "- '81->''1.2.3.4'\n",
		ok + "- \"81->1.2.3.4\" x\n", ok + "- \"81\\u002d>1.2.3.4\"\n", ok + "- &a 81->1.2.3.4\n", ok + "- *a\n", ok + "- !!str 81->1.2.3.4\n",
		ok + "- - 81->1.2.3.4\n", ok + "- ? 81->1.2.3.4\n", ok + "- |\n  81->1.2.3.4\n", ok + "- mapping: 81->1.2.3.4\n",
		ok + "- {mapping: 81->1.2.3.4}\n", ok + "- {mapping: \"81->1.2.3.4\", }\n", ok + "- {mapping: \"81->1.2.3.4\"} \u00a0\n",
		ok + "- {mapping: \"81->1.2.3.4\", name: }\n", ok + "- {mapping: \"81->1.2.3.4\", name: 5}\n", ok + "- {mapping: \"81->1.2.3.4\", name: No}\n",
		ok + "- {mapping: \"81->1.2.3.4\", name: null}\n", ok + "- {mapping: \"81->1.2.3.4\", name: a b}\n", ok + "- {mapping: \"81->1.2.3.4\", name: \"a\\tb\"}\n",
		ok + "- {mapping: \"81->1.2.3.4\", name: \"a\", name: b}\n", ok + "- {mapping: \"81->1.2.3.4\", name: a\u2028}\n", ok + "- {mapping: \"81->1.2.3.4\", name: \"a\u2028\"}\n",
		ok + "- {mapping: \"81->1.2.3.4\", name: \"\xff\"}\n", ok + "- {mapping: \"81->1.2.3.4\", name: [}\n", ok + "- {mapping: \"81->1.2.3.4\"\n", ok + "- {mapping: \"81->1.2.3.4}\n", ok + "- {mapping: \"81->1.2.3.4\n",
		ok + "- {mapping: \"81->1.2.3.4\", proxy: true}\n", ok + "- {mapping: \"81->1.2.3.4\", expires: 2027-01-01}\n",
		ok + "- {mapping: \"81->1.2.3.4\", expires: 0001-01-01T00:00:00Z}\n", ok + "- {mapping: \"81->1.2.3.4\", expires: 2027-01-01T00:00:00Z, proxy: false}\n",
		ok + "mappings: []\n", "mappings: []\n" + net, net + "mappings: []\n- 80->1.2.3.4\n", net + "mappings: []\nmappings: []\n", net + "mappings:\n",
		net + "networks:\n- {name: b, prefix: 11.0.0.0/8}\n", net + " mappings: []\n", ok + net, web + "}\n" + net, net + ok + web + "}\n", "networks:\n" + ok, net + "endpoints:\n" + ok,
		net + web + "\n", net + web + ", ports: []}\n", net + web + ", ports: [\"80:80\",\"81:81\"]}\n", net + web + ", ports: [80:80]}\n", net + web + ", ports: [\"80:80\"]}}\n",
		net + web + ", ports: [\"80:80\"}\n", net + web + ", ports: [\"80\\:80\"]}\n", net + web + ", network: a}\n", net + web + ", ports: [\"0:80\"]}\n", net + web + ", ports: [\"80\"]}\n",
		net + web + ", ports: [\"80:80\", \"80:81\"]}\n", net + web + "}\n- {name: web, address: 10.0.0.3}\n", net + web + "}\n- {name: dns, address: 10.0.0.2}\n",
		"networks:\n- {prefix: 10.0.0.0/8, name: a}\n", "networks:\n- {name: a, prefix: \"10.0.0.0/8\"\"}\n", "networks:\n- {name: a, prefix: fd00::/64}\n", "networks:\n- {name: a}\n",
		"networks:\n- {name: a, prefix: 10.0.0.0/8, guard: true}\n", "networks:\n- {name: a, prefix: 10.0.0.0/8, guard: false, masquerade: false}\n",
		"networks:\n- {name: 1a, prefix: 10.0.0.0/8}\n", "networks:\n- {name: null, prefix: 10.0.0.0/8}\n", "networks:\n- {name: a.b, prefix: 10.0.0.0/8}\n", "networks:\n- {name: a, prefix: 10.0.0.0/8 }\n",
		"networks:\n- {name: a, prefix: 10.0.0.0/8, gateway: }\n", "networks:\n- {name: a, prefix: 10.0.0.0/8, gateway: \"\"}\n", "networks:\n- {name: a, prefix: 10.0.0.0/8, gateway: 11.0.0.1}\n",
		net + "- {name: a, prefix: 11.0.0.0/8}\n", net + "- {name: b, prefix: 10.1.0.0/16}\n", "networks:\n- 80->1.2.3.4\n", "endpoints:\n- {name: web, address: 10.0.0.2}\n",
		ok + "- 80->1.2.3.5\n", ok + "- 0->1.2.3.5:80\n", ok + "- 82->127.0.0.1\n", ok + "- 82-81->1.2.3.4\n",
	} {
		_, taken := decodePlain(text)
		require.False(t, taken, "%q", text)
	}
}

// randomFile writes a file as people and programs do: mostly lines that the
// fast way takes, with some of every kind that it might take wrongly.
func randomFile(r *rand.Rand) string {
	one := func(of ...string) string { return of[r.IntN(len(of))] }
	seldom := func(s string) string {
		if r.IntN(80) == 0 {
			return s
		}
		return ""
	}
	indent := strings.Repeat(" ", r.IntN(4))
	var b strings.Builder
	b.WriteString(seldom("---\n") + seldom("# head\n") + seldom("\n") + seldom("  # x: y\n"))
	b.WriteString(randomSections(r, one, seldom))
	b.WriteString("mappings:" + seldom(" ") + seldom(" # c") + "\n")
	for i := range 1 + r.IntN(6) {
		port := fmt.Sprint(8000 + 10*i + r.IntN(9))
		text := one("", "", "", "192.0.2.1:") + port + seldom(" ") + "->" + seldom(" ") +
			one("172.17.0.2", "172.17.0.2", "[::ffff:1.2.3.4"+seldom("%x")+"]") + one("", ":80", ":80", seldom(":0"), seldom(":"))
		if r.IntN(3) == 0 {
			text = one("", "", "[2001:db8::1]:", "[::]:") + port + "->" + one("fd00::2", "[fd00::2]", "fd00::1"+seldom("::"), "fd00::"+one("1", "2", "3", ""), "[fd00::2]:80")
		}
		text += one("", "", "", "/udp", "/tcp", seldom("/x"))
		switch r.IntN(8) {
		case 0:
			text = `"` + text + seldom("\n") + `"`
		case 1:
			text = `'` + text + seldom("'") + `'`
		case 2, 3:
			text = `{mapping: ` + one(`"`, `"`, `"`, `"`, seldom(`'`)) + text + `"` + seldom(" ") +
				one("", ", name: web", `, name: "a b"`, `, name: "a\tb"`, `, name: yes`, ", name: 5", ", name: a-b_c", ", name: on") +
				one("", "", ", proxy: false", ", proxy: true", seldom(", proxy: x")) +
				one("", "", ", expires: 2027-01-01T00:00:00Z", seldom(", expires: 5"), ", expires: 2027-01-01T00:00:00+01:00") + "}"
		}
		b.WriteString(indent + seldom(" ") + "-" + one(" ", " ", " ", "  ", seldom("\t")) + seldom("&a ") + seldom("- ") + text +
			seldom(" # c") + seldom("# c") + seldom(" ") + seldom("\r") + "\n")
		b.WriteString(seldom("\n") + seldom("   \n") + seldom("# c\n") + seldom("        # c\n") + seldom(indent+"  x\n") + seldom("x\n") + seldom("\t\n") + seldom("x: y\n"))
	}
	b.WriteString(seldom("...\n") + seldom("---\n") + seldom("networks: []\n"))
	return b.String()
}

// randomSections writes networks and endpoints, or none.
func randomSections(r *rand.Rand, one func(...string) string, seldom func(string) string) string {
	var b strings.Builder
	if r.IntN(6) == 0 {
		b.WriteString(seldom(" ") + "networks:" + seldom(" []") + "\n")
		for i := range 1 + r.IntN(3) {
			fmt.Fprintf(&b, "%s- {name: %s%d%s, prefix: ", one("", "", seldom(" ")), one("net", "net", `"n`+seldom(`\`)), i, one("", "", seldom(`"`)))
			b.WriteString(one(fmt.Sprintf("10.%d.0.0/16", i), fmt.Sprintf("10.%d.0.0/16", i), fmt.Sprintf(`"fd00:%d::/64"`, i), seldom("10.0.0.0/8")))
			b.WriteString(one("", "", ", gateway: "+one(fmt.Sprintf("10.%d.0.1", i), `"fd00::1"`)) + one("", "", fmt.Sprintf(", next: 10.%d.0.7", i), seldom(`, next: "x"`)))
			b.WriteString(one("", "", ", masquerade: false", seldom(", masquerade: true")) + one("", "", ", guard: false") + seldom(" ") + "}\n")
		}
	}
	if r.IntN(8) == 0 {
		b.WriteString("endpoints:" + seldom(" # c") + "\n")
		for i := range 1 + r.IntN(3) {
			fmt.Fprintf(&b, "  - {name: %s%d%s", one("web", "web", "web", `"web"`, seldom("7")), i, one("", "", seldom(", network: net0")))
			fmt.Fprintf(&b, ", address: %s", one(fmt.Sprintf("10.%d.0.%d", i, 2+r.IntN(5)), fmt.Sprintf(`"fd00:%d::7"`, i), seldom("10.0.0.1")))
			b.WriteString(one("", "", fmt.Sprintf(`, ports: ["%d:80"%s"%d:53/udp"]`, 100+i, one(", ", ", ", seldom(",")), 200+i), seldom(", ports: []")) + "}\n")
		}
	}
	return b.String()
}

// sameBothWays fails unless the library reads what the fast way took, and reads
// the same.
func sameBothWays(tb testing.TB, text string) (taken bool) {
	tb.Helper()
	fast, taken := decodePlain(text)
	if !taken {
		return false
	}
	slow, err := decodeYAML(text)
	if err != nil {
		tb.Fatalf("the library refuses %q: %v", text, err)
	}
	if !reflect.DeepEqual(fast, slow) {
		tb.Fatalf("%q is %v, %v with the library", text, fast, slow)
	}
	return true
}

func TestDecodePlainIsAsTheLibrary(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	taken, good := 0, 0
	for range 10000 {
		text := randomFile(r)
		if sameBothWays(t, text) {
			taken++
		} else if _, err := decodeYAML(text); err == nil {
			good++
		}
	}
	require.Greater(t, taken, 500, "files the fast way takes were tried")
	require.Greater(t, good, 500, "and good files that it leaves")
}

func FuzzDecodePlain(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		f.Add(randomFile(r))
	}
	f.Add("mappings:\n- {mapping: \"53->172.17.0.2:53/udp\", name: \"Zoë's {web}, 1: #2\", proxy: false, expires: 2027-01-01T00:00:00Z}\n")
	f.Add("networks:\n- {name: a, prefix: 10.0.0.0/8, gateway: 10.0.0.1, next: 10.0.0.9, masquerade: false, guard: false}\n" +
		"endpoints:\n- {name: \"w.b\", network: a, address: 10.0.0.2, ports: [\"80:80\", \"53:53/udp\"]}\nmappings: []\n")
	f.Fuzz(func(t *testing.T, text string) {
		sameBothWays(t, text)
		sameBothWays(t, "networks:\n- {name: a, prefix: 10.0.0.0/8"+text+"}\nmappings: []\n")
		sameBothWays(t, "networks:\n- {name: a, prefix: 10.0.0.0/8}\nendpoints:\n- {name: web, address: 10.0.0.2, ports: ["+text+"]}\n")
		// Items get into a file less often by chance than into one that is
		// there already.
		sameBothWays(t, "mappings:\n  - 65535->172.17.0.9:1/udp\n"+text)
		sameBothWays(t, "mappings:\n- {mapping: \"53->172.17.0.2:53/udp\", name: "+text+"}\n")
	})
}

func TestIsWord(t *testing.T) {
	for _, s := range []string{"web", "a", "Web-1_x", "e5", "nul", "oN1"} {
		require.True(t, isWord(s), s)
		got, err := decodeYAML("mappings:\n- {mapping: 80->1.2.3.4, name: " + s + "}")
		require.Nil(t, err)
		require.Equal(t, s, got.Mappings[0].Name)
	}
	for _, s := range []string{"", "5", "-a", "_a", "a b", "a.b", "a:", "a,", "~", "null", "NULL", "True", "off", "Y", "é", "a\x00", "@a", "[", "`", "{"} {
		require.False(t, isWord(s), s)
	}
}

func BenchmarkDecode(b *testing.B) {
	for name, ms := range map[string][]nat.Mapping{"plain": many(b, ""), "objects": many(b, "web")} {
		var text strings.Builder
		require.NoError(b, Encode(&text, nat.State{Mappings: ms}))
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(text.Len()))
			b.ReportAllocs()
			for b.Loop() {
				if f, err := Decode(strings.NewReader(text.String()), "f"); err != nil || len(f.Mappings) != len(ms) {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"-library", func(b *testing.B) {
			b.SetBytes(int64(text.Len()))
			b.ReportAllocs()
			for b.Loop() {
				if s, err := decodeYAML(text.String()); err != nil || len(s.Mappings) == 0 {
					b.Fatal(err)
				}
			}
		})
	}
}
