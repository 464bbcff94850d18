// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package chains

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ParseJSON reads what "nft --json list ruleset" prints (libnftables-json(5)). The inet table of the
// name skip is left out. The caller bounds how many values the text has, and how deep they are nested.
func ParseJSON(data []byte, skip string) (*Ruleset, error) {
	var list struct{ Nftables jsonParser }
	p := &list.Nftables
	*p = jsonParser{skip: skip, tables: map[string]*Table{}, sets: map[string][]json.RawMessage{}}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("it is not what nft --json list ruleset prints: %w", err)
	}
	if p.rs == nil {
		return nil, errors.New(`it is not what nft --json list ruleset prints: it has no "nftables"`)
	}
	for _, r := range p.rules { // they come before the sets that they name
		if err := p.rule(r); err != nil {
			return nil, fmt.Errorf("object %d: %w", r.object, err)
		}
	}
	return p.rs, nil
}

type jsonParser struct {
	rs     *Ruleset // nil: there was no array
	skip   string
	tables map[string]*Table
	chains int
	sets   map[string][]json.RawMessage
	rules  []jsonRuleObject
}

// jsonRuleObject is a rule whose expressions have not been read.
type jsonRuleObject struct {
	Family, Table, Chain string
	Handle               uint64
	Expr                 json.RawMessage
	object               int
}

// UnmarshalJSON reads the array of objects, one by one: together they may be a hundred times as long as their text.
func (p *jsonParser) UnmarshalJSON(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if begin, err := d.Token(); err != nil || begin != json.Delim('[') {
		return errors.New(`"nftables" is no array`)
	}
	if p.rs == nil {
		p.rs = &Ruleset{}
	}
	for i := 1; d.More(); i++ {
		name, raw, err := jsonPair(d)
		if err == nil {
			err = p.object(i, name, raw)
		}
		if err != nil {
			return fmt.Errorf("object %d: %w", i, err)
		}
	}
	return nil
}

// jsonPair reads an object with one key.
func jsonPair(d *json.Decoder) (name string, value json.RawMessage, err error) {
	begin, err := d.Token()
	if err != nil {
		return "", nil, err
	}
	if begin != json.Delim('{') {
		return "", nil, fmt.Errorf("%v is no object", begin)
	}
	key, err := d.Token()
	if err != nil {
		return "", nil, err
	}
	name, ok := key.(string)
	if !ok {
		return "", nil, errors.New("it has not one key")
	}
	if err := d.Decode(&value); err != nil {
		return "", nil, err
	}
	end, err := d.Token()
	if err == nil && end != json.Delim('}') {
		err = errors.New("it has not one key")
	}
	return name, value, err
}

// object reads an object.
func (p *jsonParser) object(number int, name string, raw json.RawMessage) error {
	switch name {
	case "chain":
		var c jsonChain
		if err := json.Unmarshal(raw, &c); err != nil {
			return err
		}
		return p.chain(&c)
	case "map", "set":
		var s struct {
			Family, Table, Name string
			Elem                []json.RawMessage
		}
		if err := json.Unmarshal(raw, &s); err != nil {
			return err
		}
		p.sets[s.Family+" "+s.Table+" "+s.Name] = s.Elem
	case "rule":
		r := jsonRuleObject{object: number}
		if err := json.Unmarshal(raw, &r); err != nil {
			return err
		}
		if len(p.rules) == maxRules {
			return errManyRules
		}
		p.rules = append(p.rules, r)
	}
	return nil
}

type jsonChain struct {
	Family, Table, Name, Type, Hook, Policy string
	Handle                                  uint64
	Prio                                    int32
}

func (p *jsonParser) chain(c *jsonChain) error {
	numbers := map[string]uint8{"ip": unix.NFPROTO_IPV4, "ip6": unix.NFPROTO_IPV6, "inet": unix.NFPROTO_INET}
	number, ok := numbers[c.Family]
	if !ok || c.Family == "inet" && c.Table == p.skip {
		return nil
	}
	name := c.Family + " " + c.Table
	t := p.tables[name]
	if t == nil {
		t = &Table{Name: name, Family: number, Four: c.Family != "ip6", Six: c.Family != "ip", Maker: NFT, age: uint64(len(p.tables))}
		p.tables[name] = t
		p.rs.Tables = append(p.rs.Tables, t)
	}
	if t.Chain(c.Name) != nil {
		return nil
	}
	if p.chains++; p.chains > maxRules {
		return errManyChains
	}
	own := &Chain{Name: c.Name, Priority: c.Prio, Drops: c.Policy == "drop", age: c.Handle}
	if c.Type == "nat" {
		own.Hook = map[string]Hook{"prerouting": Prerouting, "output": Output, "postrouting": Postrouting}[c.Hook]
	}
	t.add(own)
	return nil
}

// maxExprs is NFT_RULE_MAXEXPRS: no rule of the kernel has more expressions.
const maxExprs = 128
