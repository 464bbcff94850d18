// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package igd

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// show writes a document back, with the namespaces in full.
func show(e *element) string {
	// encoding/xml does not normalise the values of attributes (XML 1.0, 3.3.3).
	s := "{" + strings.NewReplacer("\t", " ", "\n", " ").Replace(e.space) + "}" + e.name + "(" + e.text
	for _, c := range e.children {
		s += show(c)
	}
	return s + ")"
}

func TestParseXML(t *testing.T) {
	for in, want := range map[string]string{
		`<a/>`:                                "{}a()",
		`<a></a >`:                            "{}a()",
		"\ufeff<?xml version='1.0'?>\n<a/>\n": "{}a()",
		`<?xml version="1.0" encoding="UTF-8" standalone="no" ?><!-- c --><a> b </a><!----> `: "{}a( b )",
		`<s:a xmlns:s="u" xmlns="v"><b c='"'/><s:b s:c="&lt;"/></s:a>`:                        "{u}a({v}b(){u}b())",
		`<a xmlns="u"><b xmlns="v"/><c xmlns=""/><d/></a>`:                                    "{u}a({v}b(){}c(){u}d())",
		"<a>x&lt;&gt;&amp;&quot;&apos;&#65;&#x42;<![CDATA[<&]]]>y<!-- z --></a>":              `{}a(x<>&"'AB<&]y)`,
		"<a>1\r\n2\r3&#13;</a>":                                                                "{}a(1\n2\n3\r)",
		`<a xml:lang="de">` + "\U0001f600é</a>":                                                "{}a(\U0001f600é)",
		strings.Repeat("<a>", maxDepth) + strings.Repeat("</a>", maxDepth):                     strings.Repeat("{}a(", maxDepth) + strings.Repeat(")", maxDepth),
		`<a xmlns:p="urn:1" xmlns:q="urn:1" p:b="1" b="2"><q:c/></a>`:                          "{}a({urn:1}c())",
		"<a" + strings.Repeat("\n", 3) + "b = '1'\tc\t=\t\"2\" />":                             "{}a()",
		`<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="e"><s:Body/></s:Envelope>`: "{e}Envelope({e}Body())",
		"<a>" + strings.Repeat("<b/>", maxElements-1) + "</a>":                                 "{}a(" + strings.Repeat("{}b()", maxElements-1) + ")",
		`<_-.1><b-2/></_-.1>`:                                                                  "{}_-.1({}b-2())",
	} {
		e, err := parseXML(in)
		require.NoError(t, err, in)
		require.Equal(t, want, show(e), in)
	}
}

func TestParseXMLRefuses(t *testing.T) {
	for _, in := range []string{
		"", " ", "a", "<a>", "</a>", "<a", "<a/", "<a/>b", "<a/><a/>", "b<a/>", "<a></b>", "<a><b></a></b>",
		"<!DOCTYPE a><a/>", `<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>`, "<a><!ELEMENT b></a>",
		" <?xml version='1.0'?><a/>", "<?xml version='1.1'?><a/>", "<?xml?><a/>", "<?xml version='1.0' encoding='latin1'?><a/>",
		"<?xml encoding='utf-8'?><a/>", "<?xml version='1.0' encoding='utf-8' more='1'?><a/>", "<?php?><a/>", "<a><?b?></a>", "<a/><?b?>",
		"<?xml version='1.0' standalone='maybe'?><a/>", "<?xml version='1.0' standalone='yes' encoding='utf-8'?><a/>",
		"<a>&b;</a>", "<a>&</a>", "<a>&amp</a>", "<a>&#0;</a>", "<a>&#xd800;</a>", "<a>&#x110000;</a>", "<a>&#-1;</a>", "<a>&#;</a>", "<a>&#99999999999999999999;</a>",
		"<a>]]></a>", "<a><![CDATA[</a>", "<a><!-- -- --></a>", "<a><!-- </a>",
		"<a b/>", "<a b=c/>", "<a b='1' b='2'/>", "<a b='<'/>", "<a b='&c;'/>", "<a b='1'c='2'/>", "<a b='1/>", `<a xmlns:p="u" xmlns:q="u" p:b="" q:b=""/>`,
		"<p:a/>", "<a p:b=''/>", "<a><b xmlns:p='u'/><p:c/></a>", "<a xmlns:p=''/>", "<a xmlns:xml='u'/>", "<a xmlns:xmlns='u'/>", "<a xmlns='" + xmlOwnSpace + "'/>", "<xmlns:a/>",
		"<a:b:c xmlns:a='u'/>", "<:a/>", "<a:/>", "<1/>", "<-a/>", "< a/>", "<a></ a>", "<é/>",
		"<a>\x00</a>", "<a>\x0b</a>", "<a>\xff</a>", "<a>\ufffe</a>", "\ufeff\ufeff<a/>",
		strings.Repeat("<a>", maxDepth+1) + strings.Repeat("</a>", maxDepth+1),
		"<a>" + strings.Repeat("<b/>", maxElements) + "</a>",
	} {
		_, err := parseXML(in)
		require.ErrorIs(t, err, errXML, in)
	}
	attrs := ""
	for range maxAttributes + 1 {
		attrs += " a" + strings.Repeat("b", len(attrs)) + "=''"
	}
	_, err := parseXML("<a" + attrs + "/>")
	require.ErrorIs(t, err, errXML)
}

// standard reads a document by encoding/xml.
func standard(in string) (*element, error) {
	d := xml.NewDecoder(strings.NewReader(in))
	var open []*element
	root := new(element)
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return root, nil
		}
		if err != nil {
			return nil, err
		}
		switch token := token.(type) {
		case xml.StartElement:
			e := &element{space: token.Name.Space, name: token.Name.Local}
			if len(open) == 0 {
				root = e
			} else {
				in := open[len(open)-1]
				in.children = append(in.children, e)
			}
			open = append(open, e)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) != 0 {
				open[len(open)-1].text += string(token)
			}
		}
	}
}

// What is accepted is what encoding/xml reads from it, which accepts more.
func FuzzXML(f *testing.F) {
	f.Add(envelope(services["ip1"][1], "AddPortMapping", "NewRemoteHost=", "NewEnabled=1"))
	f.Add("<?xml version=\"1.0\" encoding='utf-8'?><!-- --><a xmlns:p='u' b=\"&lt;\"><p:c>&#65;<![CDATA[<]]>\r\n</p:c></a>")
	f.Add("<a xmlns='u'><b xmlns=''/><xml:c/></a>")
	f.Fuzz(func(t *testing.T, in string) {
		if len(in) > maxBody {
			return
		}
		e, err := parseXML(in)
		if err != nil {
			return
		}
		want, err := standard(strings.TrimPrefix(in, "\ufeff"))
		if err != nil {
			t.Fatalf("encoding/xml: %v", err)
		}
		if show(e) != show(want) {
			t.Fatalf("%s\n%s", show(e), show(want))
		}
	})
}

// What is escaped is read back, except for what may not be in a document.
func FuzzEscape(f *testing.F) {
	f.Add("<a href='x'>&amp;\r\n\x00\xff\"")
	f.Fuzz(func(t *testing.T, in string) {
		doc := newDocument()
		doc.text("a", in)
		e, err := parseXML(doc.String())
		if err != nil {
			t.Fatal(err)
		}
		if isText(in) && e.text != in {
			t.Fatalf("%q", e.text)
		}
	})
}
