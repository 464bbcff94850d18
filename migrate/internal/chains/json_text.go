// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package chains

import (
	"encoding/json"
	"strconv"
	"strings"
)

// jsonText is an expression as nft(8) prints it, about.
func jsonText(raw json.RawMessage) string {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) == nil {
		return jsonTexts(list, ", ")
	}
	var of map[string]json.RawMessage
	if json.Unmarshal(raw, &of) != nil || len(of) == 0 {
		text, _ := jsonScalar(raw)
		return excerpt(text)
	}
	if fields, ok := jsonFields(raw); ok {
		return strings.Join(fields, " . ")
	}
	for name, raw := range of {
		var list []json.RawMessage
		var m struct {
			Key, Data json.RawMessage
			Addr      string
			Len       int
			Val       json.RawMessage
			Target    string
		}
		isList := json.Unmarshal(raw, &list) == nil
		_ = json.Unmarshal(raw, &m) // what it is not is empty
		switch {
		case name == "set" && isList:
			return "{ " + jsonTexts(list, ", ") + " }"
		case name == "range" && isList:
			return jsonTexts(list, "-")
		case name == "concat" && isList:
			return jsonTexts(list, " . ")
		case name == "prefix":
			return m.Addr + "/" + strconv.Itoa(m.Len)
		case name == "map":
			return jsonText(m.Key) + " map " + jsonText(m.Data)
		case name == "elem":
			return jsonText(m.Val)
		case m.Target != "":
			return name + " " + m.Target
		case isList || string(raw) == "null":
			return name
		}
		return name + " " + excerpt(string(raw))
	}
	return ""
}

func jsonTexts(list []json.RawMessage, between string) string {
	const most = 16
	texts := make([]string, 0, most)
	for _, e := range list[:min(len(list), most)] {
		texts = append(texts, jsonText(e))
	}
	if len(list) > most {
		texts = append(texts, "...")
	}
	return strings.Join(texts, between)
}

// jsonStatement is a part of a rule as nft(8) prints it, about.
func jsonStatement(name string, raw json.RawMessage) string {
	var m struct {
		Op, Family, Target           string
		Left, Right, Key, Data, Addr json.RawMessage
		Port                         json.RawMessage
	}
	_ = json.Unmarshal(raw, &m) // what it is not is empty
	switch {
	case name == "match" && (m.Op == "==" || m.Op == "in"):
		return jsonText(m.Left) + " " + jsonText(m.Right)
	case name == "match":
		return jsonText(m.Left) + " " + m.Op + " " + jsonText(m.Right)
	case name == "vmap":
		return jsonText(m.Key) + " vmap " + jsonText(m.Data)
	case name == "counter":
		return name
	case m.Target != "":
		return name + " " + m.Target
	case m.Addr != nil || m.Port != nil:
		text := name
		if m.Family != "" {
			text += " " + m.Family
		}
		text += " to"
		if m.Addr != nil {
			text += " " + jsonText(m.Addr)
		}
		if m.Port != nil {
			text += " port " + jsonText(m.Port)
		}
		return text
	}
	return name
}
