// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package igd

import (
	"encoding/xml"
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/gateway/internal/lease"
	"github.com/nftnat/nftnat/nat"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "go test -update writes it")
	require.Equal(t, string(want), got)
}

// An exchange is an action, where the documents say what it does, and who asks.
type exchange struct {
	section string
	from    netip.Addr
	line    string // service, action, arguments
}

// mapped is AddPortMapping's arguments: remote host, external port, protocol, internal port, client, enabled, description, duration.
func mapped(values ...string) (line string) {
	for i, name := range []string{
		"NewRemoteHost", "NewExternalPort", "NewProtocol", "NewInternalPort",
		"NewInternalClient", "NewEnabled", "NewPortMappingDescription", "NewLeaseDuration",
	} {
		line += "|" + name + "=" + values[i]
	}
	return line
}

func identified(remote, external, proto string) string {
	return "|NewRemoteHost=" + remote + "|NewExternalPort=" + external + "|NewProtocol=" + proto
}

const me, they = "192.168.77.2", "192.168.77.3"

// exchanges1 are those of WANIPConnection:1 (IP), WANCommonInterfaceConfig:1 (CIF), Layer3Forwarding:1 (L3F) and the UPnP Device
// Architecture 1.1 (UDA).
func exchanges1() []exchange {
	add := func(section string, values ...string) exchange {
		return exchange{section, client, "ip1|AddPortMapping" + mapped(values...)}
	}
	ask := func(section, line string) exchange { return exchange{section, client, line} }
	return []exchange{
		ask("L3F 2.4.2", "l3f|GetDefaultConnectionService"),
		ask("L3F 2.4.1", "l3f|SetDefaultConnectionService|NewDefaultConnectionService=x"),
		ask("CIF 2.4.3", "cif|GetCommonLinkProperties"),
		ask("CIF 2.4.6, 32 bits", "cif|GetTotalBytesSent"),
		ask("CIF 2.4.7", "cif|GetTotalBytesReceived"),
		ask("CIF 2.4.8", "cif|GetTotalPacketsSent"),
		ask("CIF 2.4.9", "cif|GetTotalPacketsReceived"),
		ask("IP 2.4.1", "ip1|SetConnectionType|NewConnectionType=IP_Routed"),
		ask("IP 2.4.2", "ip1|GetConnectionTypeInfo"),
		ask("IP 2.4.3", "ip1|RequestConnection"),
		ask("IP 2.4.5", "ip1|ForceTermination"),
		ask("IP 2.4.9", "ip1|GetStatusInfo"),
		ask("IP 2.4.13", "ip1|GetNATRSIPStatus"),
		ask("IP 2.4.18", "ip1|GetExternalIPAddress"),

		ask("IP 2.4.14, empty", "ip1|GetGenericPortMappingEntry|NewPortMappingIndex=0"),
		add("IP 2.4.16, no end", "", "8080", "TCP", "80", me, "1", "web & <more>", "0"),
		add("IP 2.4.16, a remote host and an end", "9.9.9.9", "5000", "UDP", "5001", me, "true", "", "3600"),
		ask("IP 2.4.14", "ip1|GetGenericPortMappingEntry|NewPortMappingIndex=0"),
		ask("IP 2.4.14", "ip1|GetGenericPortMappingEntry|NewPortMappingIndex=1"),
		ask("IP 2.4.14, past the end", "ip1|GetGenericPortMappingEntry|NewPortMappingIndex=2"),
		ask("IP 2.4.14, past any end", "ip1|GetGenericPortMappingEntry|NewPortMappingIndex=65536"),
		ask("IP 2.4.15", "ip1|GetSpecificPortMappingEntry"+identified("", "8080", "TCP")),
		ask("IP 2.4.15", "ip1|GetSpecificPortMappingEntry"+identified("9.9.9.9", "5000", "UDP")),
		ask("IP 2.4.15, another remote host", "ip1|GetSpecificPortMappingEntry"+identified("", "5000", "UDP")),
		ask("IP 2.4.15, another protocol", "ip1|GetSpecificPortMappingEntry"+identified("", "8080", "UDP")),
		add("IP 2.4.16, the same client overwrites", "", "8080", "TCP", "81", me, "1", "web", "600"),
		ask("IP 2.4.15", "ip1|GetSpecificPortMappingEntry"+identified("", "8080", "TCP")),

		{"IP 2.4.16, another client's", other, "ip1|AddPortMapping" + mapped("", "8080", "TCP", "80", they, "1", "", "0")},
		{"IP 2.4.17, another client's", other, "ip1|DeletePortMapping" + identified("", "8080", "TCP")},
		{"IP 2.4.15, all see all", other, "ip1|GetSpecificPortMappingEntry" + identified("", "8080", "TCP")},
		add("IP 2.4.16, an operator's", "", "2000", "TCP", "80", me, "1", "", "0"),
		add("IP 2.4.16, no daemon", "", "2001", "TCP", "80", me, "1", "", "0"),
		add("IP 2.4.16, denied", "", "80", "TCP", "80", me, "1", "", "0"),
		add("for another client", "", "8081", "TCP", "80", they, "1", "", "0"),
		add("for a name", "", "8081", "TCP", "80", "client.example", "1", "", "0"),
		add("for whoever asks", "*", "8082", "TCP", "82", "", "1", "", "0"),
		add("IP 2.4.16, any external port", "", "0", "TCP", "80", me, "1", "", "0"),
		add("IP InternalPort, none", "", "8081", "TCP", "0", me, "1", "", "0"),
		add("IP ExternalPort, past the last port", "", "65536", "TCP", "80", me, "1", "", "0"),
		add("IP ExternalPort, below the first", "", "-1", "TCP", "80", me, "1", "", "0"),
		add("IP ExternalPort, no number", "", "http", "TCP", "80", me, "1", "", "0"),
		add("IP ExternalPort, nothing", "", "", "TCP", "80", me, "1", "", "0"),
		add("IP PortMappingProtocol", "", "8081", "tcp", "80", me, "1", "", "0"),
		add("IP PortMappingProtocol", "", "8081", "SCTP", "80", me, "1", "", "0"),
		add("IP PortMappingEnabled, disabled", "", "8081", "TCP", "80", me, "0", "", "0"),
		add("IP PortMappingEnabled, no boolean", "", "8081", "TCP", "80", me, "2", "", "0"),
		add("IP RemoteHost, a name", "host.example", "8081", "TCP", "80", me, "1", "", "0"),
		add("IP RemoteHost, no host", "0.0.0.0", "8081", "TCP", "80", me, "1", "", "0"),
		add("IP PortMappingLeaseDuration, more than 32 bits", "", "8081", "TCP", "80", me, "1", "", "4294967296"),
		ask("IP 2.4.17, arguments missing", "ip1|DeletePortMapping|NewExternalPort=8080"),
		ask("IP 2.4.17, no such entry", "ip1|DeletePortMapping"+identified("", "9999", "TCP")),
		ask("IP 2.4.17", "ip1|DeletePortMapping"+identified("", "8080", "TCP")),
		ask("IP 2.4.17, twice", "ip1|DeletePortMapping"+identified("", "8080", "TCP")),
		ask("UDA 3.2.2, no such action", "ip1|RequestTermination"),
		ask("not of version 1", "ip1|AddAnyPortMapping"+mapped("", "8081", "TCP", "80", me, "1", "", "0")),
		ask("version 2 of a service of version 1", "ip2|GetExternalIPAddress"),
	}
}

// exchanges2 are those of WANIPConnection:2.
func exchanges2() []exchange {
	ask := func(section, line string) exchange { return exchange{section, client, line} }
	span := func(first, last, manage string) string {
		return "|NewStartPort=" + first + "|NewEndPort=" + last + "|NewProtocol=TCP|NewManage=" + manage
	}
	return []exchange{
		ask("the version asked for", "ip1|GetExternalIPAddress"),
		ask("2.5.20", "ip2|GetExternalIPAddress"),
		ask("2.5.16, zero is a week", "ip2|AddPortMapping"+mapped("", "8080", "TCP", "80", me, "1", "web", "0")),
		ask("2.5.15", "ip2|GetSpecificPortMappingEntry"+identified("", "8080", "TCP")),
		ask("PortMappingLeaseDuration, more than a week", "ip2|AddPortMapping"+mapped("", "8081", "TCP", "80", me, "1", "", "604801")),
		ask("2.5.16, no internal port", "ip2|AddPortMapping"+mapped("", "8081", "TCP", "0", me, "1", "", "0")),
		ask("2.5.16, an operator's", "ip2|AddPortMapping"+mapped("", "2000", "TCP", "80", me, "1", "", "0")),
		{"2.5.17, taken: another one", other, "ip2|AddAnyPortMapping" + mapped("", "8080", "TCP", "80", they, "1", "", "60")},
		ask("2.5.17", "ip2|AddAnyPortMapping"+mapped("", "8082", "TCP", "82", me, "1", "", "60")),
		ask("2.5.17, any", "ip2|AddAnyPortMapping"+mapped("", "0", "TCP", "8083", me, "1", "", "60")),
		ask("not of version 1", "ip1|AddAnyPortMapping"+mapped("", "0", "TCP", "8084", me, "1", "", "60")),
		ask("2.5.21, those of the client", "ip2|GetListOfPortMappings"+span("0", "65535", "0")+"|NewNumberOfPorts=0"),
		ask("2.5.21, those of all, two", "ip2|GetListOfPortMappings"+span("8081", "65535", "1")+"|NewNumberOfPorts=2"),
		ask("2.5.21, none", "ip2|GetListOfPortMappings"+span("1", "1023", "1")+"|NewNumberOfPorts=0"),
		ask("2.5.21, wrong order", "ip2|GetListOfPortMappings"+span("2", "1", "1")+"|NewNumberOfPorts=0"),
		ask("2.5.19, others' too", "ip2|DeletePortMappingRange"+span("8080", "65535", "1")),
		ask("2.5.19", "ip2|DeletePortMappingRange"+span("8080", "65535", "0")),
		ask("2.5.19, none", "ip2|DeletePortMappingRange"+span("8080", "65535", "0")),
		ask("2.5.19, wrong order", "ip2|DeletePortMappingRange"+span("2", "1", "0")),
		ask("2.5.21, what is left", "ip2|GetListOfPortMappings"+span("0", "65535", "1")+"|NewNumberOfPorts=1000"),
	}
}

// Each action gives what the documents say, byte by byte.
func TestExchanges(t *testing.T) {
	for v, exchanges := range map[Version][]exchange{V1: exchanges1(), V2: exchanges2()} {
		t.Run(v.String(), func(t *testing.T) {
			s, _ := newTestServer(t, v)
			var b strings.Builder
			for _, e := range exchanges {
				words := strings.Split(e.line, "|")
				w := do(s, e.from, words[0], words[1], words[2:]...)
				_, body, _ := strings.Cut(w.Body.String(), "<s:Body>")
				body, _, _ = strings.Cut(body, "</s:Body>")
				fmt.Fprintf(&b, "# %s\n%s > %s\n%d %s\n\n", e.section, e.from, e.line, w.Code, body)
				var any struct{}
				require.NoError(t, xml.Unmarshal(w.Body.Bytes(), &any), e.line)
				require.Equal(t, contentType, w.Header().Get("Content-Type"))
				require.Equal(t, product, w.Header().Get("Server"))
				require.Contains(t, w.Header(), "Ext")
			}
			golden(t, "control-"+v.String()+".txt", b.String())
		})
	}
}

// The description and the SCPDs. Version 1 has no trace of version 2.
func TestDescriptions(t *testing.T) {
	for _, v := range []Version{V1, V2} {
		s, _ := newTestServer(t, v)
		var all strings.Builder
		for _, path := range []string{rootPath, "/l3f.xml", "/cif.xml", "/ip.xml"} {
			w := request(s, client, "GET "+path, "")
			require.Equal(t, http.StatusOK, w.Code)
			require.Equal(t, contentType, w.Header().Get("Content-Type"))
			var any struct{}
			require.NoError(t, xml.Unmarshal(w.Body.Bytes(), &any))
			all.WriteString("# " + path + "\n" + strings.ReplaceAll(w.Body.String(), "><", ">\n<"))
		}
		golden(t, "description-"+v.String()+".txt", all.String())
		if v == V1 {
			for _, word := range []string{"Device:2", "Connection:2", "AddAny", "Range", "GetListOf", "A_ARG_TYPE", "SystemUpdateID"} {
				require.NotContains(t, all.String(), word)
			}
		}
	}
}

// Each argument is of a variable that its service has.
func TestArgumentsHaveVariables(t *testing.T) {
	for _, d := range newTree(V2, "") {
		known := make(map[string]bool)
		for _, v := range d.service.variables {
			known[v.name] = true
		}
		for _, a := range d.service.actions {
			for _, arg := range append(a.in, a.out...) {
				require.True(t, known[arg.variable], "%s %s", a.name, arg)
			}
		}
	}
}

// What is not a proper request changes nothing.
func TestBadRequests(t *testing.T) {
	s, f := newTestServer(t, V1)
	space := services["ip1"][1]
	good := envelope(space, "AddPortMapping", strings.Split(mapped("", "8080", "TCP", "80", me, "1", "", "0"), "|")[1:]...)
	const kind, action = "Content-Type: text/xml", "SOAPACTION: urn:schemas-upnp-org:service:WANIPConnection:1#AddPortMapping"
	for _, c := range []struct {
		what, line, body string
		fields           []string
		code             int
		fault            string
	}{
		{"name as host", "POST /ip", good, []string{kind, action, "Host: router.lan:1900"}, 421, ""},
		{"foreign host", "POST /ip", good, []string{kind, action, "Host: 45.0.0.1:1900"}, 421, ""},
		{"foreign port", "POST /ip", good, []string{kind, action, "Host: 192.168.77.1:80"}, 421, ""},
		{"no host", "GET /igd.xml", "", []string{"Host: "}, 421, ""},
		{"form", "POST /ip", good, []string{"Content-Type: application/x-www-form-urlencoded", action}, 415, ""},
		{"no type", "POST /ip", good, []string{action}, 415, ""},
		{"GET", "GET /ip", "", nil, 405, ""},
		{"POST to a description", "POST /ip.xml", "", nil, 405, ""},
		{"M-POST", "M-POST /ip", good, []string{kind, action}, 405, ""},
		{"elsewhere", "POST /", good, []string{kind, action}, 404, ""},
		{"parent", "GET /../etc/passwd", "", nil, 404, ""},
		{"too long", "POST /ip", good + strings.Repeat(" ", maxBody), []string{kind, action}, 413, ""},
		{"no action", "POST /ip", good, []string{kind}, 500, "401"},
		{"other action", "POST /ip", good, []string{kind, "SOAPACTION: " + space + "#GetStatusInfo"}, 500, "401"},
		{"other service", "POST /cif", good, []string{kind, action}, 500, "401"},
		{"version 0", "POST /ip", good, []string{kind, "SOAPACTION: urn:schemas-upnp-org:service:WANIPConnection:0#AddPortMapping"}, 500, "401"},
		{"nothing", "POST /ip", "", []string{kind, action}, 500, "402"},
		{"cut", "POST /ip", good[:len(good)-20], []string{kind, action}, 500, "402"},
		{"twice", "POST /ip", good + good, []string{kind, action}, 500, "402"},
		{"DTD", "POST /ip", strings.Replace(good, "?>", "?><!DOCTYPE a [<!ENTITY b \"c\">]>", 1), []string{kind, action}, 500, "402"},
		{"entity", "POST /ip", strings.Replace(good, ">80<", ">&eighty;<", 1), []string{kind, action}, 500, "402"},
		{"argument twice", "POST /ip", strings.Replace(good, "<NewEnabled>", "<NewEnabled>1</NewEnabled><NewEnabled>", 1), []string{kind, action}, 500, "402"},
		{"argument with elements", "POST /ip", strings.Replace(good, ">80<", "><b>80</b><", 1), []string{kind, action}, 500, "402"},
		{"argument missing", "POST /ip", strings.Replace(good, "<NewEnabled>1</NewEnabled>", "", 1), []string{kind, action}, 500, "402"},
		{"other envelope", "POST /ip", strings.Replace(good, envelopeSpace, "http://www.w3.org/2003/05/soap-envelope", 1), []string{kind, action}, 500, "402"},
		{"other namespace", "POST /ip", strings.Replace(good, `xmlns:u="`+space, `xmlns:u="urn:x`, 1), []string{kind, action}, 500, "401"},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := request(s, client, c.line, c.body, c.fields...)
			require.Equal(t, c.code, w.Code, w.Body)
			if c.fault != "" {
				require.Contains(t, w.Body.String(), "<errorCode>"+c.fault+"</errorCode>")
			}
			require.Empty(t, f.All())
		})
	}
	require.NotEmpty(t, f.refused)

	require.Equal(t, http.StatusOK, request(s, client, "POST /ip", good, kind, action).Code)
	require.Len(t, f.All(), 1)
	for _, host := range []string{"192.168.77.1", "192.168.77.1:1900", "[fe80::1]:1900", "[fe80::1]", "[fd00::1]:1900"} {
		require.Equal(t, http.StatusOK, request(s, client, "GET /igd.xml", "", "Host: "+host).Code, host)
	}
}

// A client that asks by IPv6 has no port, for there is no IPv4 address that is surely its own.
func TestSixHasNoPorts(t *testing.T) {
	s, f := newTestServer(t, V1)
	from := netip.MustParseAddr("fe80::2%lan0")
	for _, internal := range []string{me, "fe80::2", "fe80::2%lan0"} {
		w := do(s, from, "ip1", "AddPortMapping", strings.Split(mapped("", "8080", "TCP", "80", internal, "1", "", "0"), "|")[1:]...)
		require.Contains(t, w.Body.String(), "<errorCode>606<", internal)
	}
	require.Empty(t, f.All())
	require.Equal(t, http.StatusOK, do(s, from, "ip1", "GetExternalIPAddress").Code)
}

func TestQuota(t *testing.T) {
	s, _ := newTestServer(t, V1)
	for i := range 10 {
		w := do(s, client, "ip1", "AddPortMapping", strings.Split(mapped("", fmt.Sprint(8000+i), "TCP", "80", me, "1", "", "0"), "|")[1:]...)
		require.Equal(t, http.StatusOK, w.Code)
	}
	w := do(s, client, "ip1", "AddPortMapping", strings.Split(mapped("", "8010", "TCP", "80", me, "1", "", "0"), "|")[1:]...)
	require.Contains(t, w.Body.String(), "<errorCode>728<")
}

// Mappings of the other protocols are listed, and are not IGD's to remove.
func TestOtherKinds(t *testing.T) {
	s, f := newTestServer(t, V2)
	f.put(lease.Lease{Kind: lease.PCP, Key: "00112233445566778899aabb", Client: client, Proto: nat.TCP, Internal: 80, External: 8080})
	f.put(lease.Lease{Kind: lease.PMP, Client: client, Proto: nat.UDP, Internal: 80, External: 8080})
	for proto, text := range map[string]string{"TCP": "PCP", "UDP": "NAT-PMP"} {
		args := []string{"NewRemoteHost=", "NewExternalPort=8080", "NewProtocol=" + proto}
		require.Contains(t, do(s, client, "ip2", "GetSpecificPortMappingEntry", args...).Body.String(), ">"+text+"<")
		require.Contains(t, do(s, client, "ip2", "DeletePortMapping", args...).Body.String(), "<errorCode>606<")
	}
	w := do(s, client, "ip2", "DeletePortMappingRange", "NewStartPort=1", "NewEndPort=65535", "NewProtocol=TCP", "NewManage=0")
	require.Contains(t, w.Body.String(), "<errorCode>730<")
	require.Len(t, f.All(), 2)
}

func TestNoAddress(t *testing.T) {
	s, f := newTestServer(t, V1)
	f.setAddress(netip.Addr{})
	require.Contains(t, do(s, client, "ip1", "GetExternalIPAddress").Body.String(), "<NewExternalIPAddress></NewExternalIPAddress>")
	require.Contains(t, do(s, client, "ip1", "GetStatusInfo").Body.String(), ">Disconnected<")
	require.Contains(t, do(s, client, "ip1", "RequestConnection").Body.String(), "<errorCode>704<")
}

func FuzzControl(f *testing.F) {
	space := services["ip1"][1]
	f.Add(space+"#AddPortMapping", envelope(space, "AddPortMapping", strings.Split(mapped("", "8080", "TCP", "80", me, "1", "x", "0"), "|")[1:]...))
	f.Add(space+"#DeletePortMapping", envelope(space, "DeletePortMapping", strings.Split(identified("", "8080", "TCP"), "|")[1:]...))
	f.Add(services["ip2"][1]+"#GetListOfPortMappings", envelope(services["ip2"][1], "GetListOfPortMappings",
		"NewStartPort=0", "NewEndPort=65535", "NewProtocol=TCP", "NewManage=1", "NewNumberOfPorts=0"))
	s, _ := newTestServer(f, V2)
	f.Fuzz(func(t *testing.T, action, body string) {
		leases := newFakeLeases()
		s.leases = leases
		w := request(s, client, "POST /ip", body, "Content-Type: text/xml", "SOAPACTION: "+action)
		switch w.Code {
		case http.StatusOK, http.StatusInternalServerError, http.StatusRequestEntityTooLarge:
		default:
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if w.Code != http.StatusRequestEntityTooLarge {
			if _, err := parseXML(w.Body.String()); err != nil {
				t.Fatalf("the answer is no XML: %s", w.Body)
			}
		}
		for _, l := range leases.All() {
			if w.Code != http.StatusOK || l.Client != client {
				t.Fatalf("%d and %v", w.Code, l)
			}
		}
	})
}
