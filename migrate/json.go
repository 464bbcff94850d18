// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Bounds of JSON, of which small values may take a hundred times their length when they have been read, and
// deep ones are read once for each level. Rulesets have some 20 values for each rule.
const (
	maxValues     = 1 << 20
	maxRuleValues = 1 << 21
	maxNested     = 64
)

// checkJSON refuses text with many values, or that are nested deep.
func checkJSON(data []byte, most int) error {
	values, depth, quoted := 0, 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			i++
		case quoted:
		case c == '{', c == '[':
			values++
			depth++
		case c == '}', c == ']':
			depth--
		case c == ',':
			values++
		}
		if values > most {
			return fmt.Errorf("it has more than %d values", most)
		}
		if depth > maxNested {
			return fmt.Errorf("its values are nested more than %d deep", maxNested)
		}
	}
	return nil
}

// decodeJSON reads one JSON value.
func decodeJSON(data []byte, to any) error {
	if len(data) > MaxFile {
		return fmt.Errorf("it has more than %d bytes", MaxFile)
	}
	if err := checkJSON(data, maxValues); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(to); err != nil {
		if errors.Is(err, io.EOF) {
			return errors.New("it is empty")
		}
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more behind its end")
	}
	return nil
}
