// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"github.com/nftnat/nftnat/engine/internal/answers"
	"github.com/nftnat/nftnat/nft"
)

// How answers are routed is recorded in these:
//
//	answers          the mark of answers by the address that was called
//	answer_marks     the marks for which an engine may have added rules (ip rule). A mark is
//	                 added before its rules and removed after them, so that no rule is left
//	                 by an engine that is killed
//	proxied_sources  addresses of this host that cannot reach a backend

// AnswerElements returns the elements of the record.
func AnswerElements(s answers.State) (es []nft.Element) {
	for m := range s.Marks {
		es = append(es, nft.Element{Set: setAnswerMarks + digitOf(m.Is4), Key: nft.MarkKey(m.Mark)})
	}
	for a, mark := range s.By {
		es = append(es, nft.Element{Set: setAnswers + familyDigit(a), Key: nft.AddrKey(a), Mark: mark})
	}
	for a := range s.Proxied {
		es = append(es, nft.Element{Set: setProxiedSources + familyDigit(a), Key: nft.AddrKey(a)})
	}
	return es
}

func digitOf(is4 bool) string {
	if is4 {
		return "4"
	}
	return "6"
}

// readAnswers decodes the record.
func (c *Contents) readAnswers(by map[string][]nft.Element) {
	for _, el := range by[setAnswerMarks] {
		mark, ok := el.Key.Mark()
		if c.keep(el, ok && el.Comment == "" && mark != 0) {
			c.Answers.Marks[answers.Mark{Is4: el.Set == setAnswerMarks+"4", Mark: mark}] = struct{}{}
		}
	}
	for _, el := range by[setAnswers] {
		a, ok := el.Key.Addr()
		if c.keep(el, ok && el.Comment == "" && el.Mark != 0) {
			c.Answers.By[a] = el.Mark
		}
	}
	for _, el := range by[setProxiedSources] {
		a, ok := el.Key.Addr()
		if c.keep(el, ok && el.Comment == "") {
			c.Answers.Proxied[a] = struct{}{}
		}
	}
}
