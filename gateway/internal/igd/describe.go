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
	d.WriteString(`<?xml version="1.0"?>` + "\n")
	return d
}

// text writes an element that has text only.
func (d *document) text(name, text string) {
	d.open(name)
	escape(&d.Builder, text)
	d.close(name)
}

func (d *document) open(name string) { d.WriteString("<" + name + ">") }

// close ends an element that open, or a tag with attributes, has begun.
func (d *document) close(name string) { d.WriteString("</" + name + ">") }

const (
	rootPath = "/igd.xml"
	maker    = "nftnat"
	makerURL = "https://github.com/nftnat/nftnat"
)

// describe returns the description of a tree, and the number of its configuration, which is another
// one for another description (UPnP Device Architecture 1.1, 2.3).
func describe(tree []*device, friendly, presentation string) (text, config string) {
	body := newDocument()
	body.open("specVersion")
	body.text("major", "1")
	body.text("minor", "1")
	body.close("specVersion")
	describeDevice(body, tree, friendly, presentation)
	h := fnv.New32a()
	_, _ = h.Write([]byte(body.String()))
	config = strconv.FormatUint(uint64(h.Sum32()&0xffffff), 10)

	root := newDocument()
	root.WriteString(`<root xmlns="urn:schemas-upnp-org:device-1-0" configId="` + config + `">`)
	root.WriteString(strings.TrimPrefix(body.String(), newDocument().String()))
	root.close("root")
	root.WriteString("\n")
	return root.String(), config
}

func describeDevice(doc *document, tree []*device, friendly, presentation string) {
	d := tree[0]
	doc.open("device")
	doc.text("deviceType", d.urn())
	doc.text("friendlyName", friendly)
	doc.text("manufacturer", maker)
	doc.text("manufacturerURL", makerURL)
	doc.text("modelDescription", "port mappings")
	doc.text("modelName", maker)
	doc.text("modelNumber", "1")
	doc.text("modelURL", makerURL)
	doc.text("UDN", d.udn)
	doc.open("serviceList")
	doc.open("service")
	doc.text("serviceType", d.service.urn())
	doc.text("serviceId", "urn:upnp-org:serviceId:"+d.service.id)
	doc.text("SCPDURL", d.service.description())
	doc.text("controlURL", d.service.path)
	doc.text("eventSubURL", d.service.events())
	doc.close("service")
	doc.close("serviceList")
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
	doc.WriteString(`<scpd xmlns="urn:schemas-upnp-org:service-1-0">`)
	doc.open("specVersion")
	doc.text("major", "1")
	doc.text("minor", "1")
	doc.close("specVersion")
	doc.open("actionList")
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
	doc.close("actionList")
	doc.open("serviceStateTable")
	for _, v := range s.variables {
		v.describe(doc)
	}
	doc.close("serviceStateTable")
	doc.close("scpd")
	doc.WriteString("\n")
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
	doc.WriteString(`<stateVariable sendEvents="` + events + `">`)
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
