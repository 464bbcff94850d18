// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package igd

import (
	"hash/fnv"
	"strconv"
	"strings"
)

// A document is XML under way. Names come from the tables of this package, texts from anywhere.
type document struct{ strings.Builder }

func newDocument() *document {
	d := new(document)
	d.write(`<?xml version="1.0"?>`, "\n")
	return d
}

// write is not part of its many callers, which would be twice as large.
//
//go:noinline
func (d *document) write(parts ...string) {
	for _, s := range parts {
		d.WriteString(s)
	}
}

// text writes an element that has text only.
func (d *document) text(name, text string) {
	d.open(name)
	escape(&d.Builder, text)
	d.close(name)
}

func (d *document) open(name string) { d.write("<", name, ">") }

// close ends an element that open, or a tag with attributes, has begun.
func (d *document) close(name string) { d.write("</", name, ">") }

const (
	rootPath    = "/igd.xml"
	specVersion = "<specVersion><major>1</major><minor>1</minor></specVersion>"

	maker    = "nftnat"
	makerURL = "https://github.com/nftnat/nftnat"
)

// describe returns the description of a tree, and the number of its configuration, which is another
// one for another description (UPnP Device Architecture 1.1, 2.3).
func describe(tree []*device, friendly, presentation string) (text, config string) {
	body := newDocument()
	body.write(specVersion)
	describeDevice(body, tree, friendly, presentation)
	h := fnv.New32a()
	_, _ = h.Write([]byte(body.String()))
	config = strconv.FormatUint(uint64(h.Sum32()&0xffffff), 10)

	root := newDocument()
	root.write(`<root xmlns="urn:schemas-upnp-org:device-1-0" configId="`, config, `">`,
		strings.TrimPrefix(body.String(), newDocument().String()), "</root>\n")
	return root.String(), config
}

func describeDevice(doc *document, tree []*device, friendly, presentation string) {
	d := tree[0]
	doc.open("device")
	doc.text("deviceType", d.urn())
	doc.text("friendlyName", friendly)
	doc.write("<manufacturer>" + maker + "</manufacturer><manufacturerURL>" + makerURL + "</manufacturerURL>" +
		"<modelDescription>port mappings</modelDescription><modelName>" + maker + "</modelName><modelNumber>1</modelNumber>" +
		"<modelURL>" + makerURL + "</modelURL>")
	doc.text("UDN", d.udn)
	doc.write("<serviceList><service>")
	doc.text("serviceType", d.service.urn())
	doc.text("serviceId", "urn:upnp-org:serviceId:"+d.service.id)
	doc.text("SCPDURL", d.service.description())
	doc.text("controlURL", d.service.path)
	doc.text("eventSubURL", d.service.events())
	doc.write("</service></serviceList>")
	if len(tree) > 1 {
		doc.open("deviceList")
		describeDevice(doc, tree[1:], friendly, "")
		doc.close("deviceList")
	}
	if presentation != "" {
		doc.text("presentationURL", presentation)
	}
	doc.close("device")
}

// describe returns the service's SCPD.
func (s *service) describe() string {
	doc := newDocument()
	doc.write(`<scpd xmlns="urn:schemas-upnp-org:service-1-0">`, specVersion, "<actionList>")
	for _, a := range s.actions {
		doc.open("action")
		doc.text("name", a.name)
		if len(a.in)+len(a.out) != 0 {
			doc.open("argumentList")
			describeArguments(doc, "in", a.in)
			describeArguments(doc, "out", a.out)
			doc.close("argumentList")
		}
		doc.close("action")
	}
	doc.write("</actionList><serviceStateTable>")
	for _, v := range s.variables {
		v.describe(doc)
	}
	doc.write("</serviceStateTable></scpd>\n")
	return doc.String()
}

func describeArguments(doc *document, direction string, args []argument) {
	for _, a := range args {
		doc.open("argument")
		doc.text("name", a.name)
		doc.text("direction", direction)
		doc.text("relatedStateVariable", a.variable)
		doc.close("argument")
	}
}

func (v *variable) describe(doc *document) {
	events := "no"
	if v.evented {
		events = "yes"
	}
	doc.write(`<stateVariable sendEvents="`, events, `">`)
	doc.text("name", v.name)
	doc.text("dataType", v.kind)
	if v.values != nil {
		doc.open("allowedValueList")
		for _, value := range v.values {
			doc.text("allowedValue", value)
		}
		doc.close("allowedValueList")
	}
	doc.close("stateVariable")
}
