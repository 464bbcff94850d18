// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// schemaPrefix is what the comment of every table of nftnat begins with; the number
// of the schema follows.
const schemaPrefix = "nftnat schema "

func tableComment(schema int) string { return schemaPrefix + strconv.Itoa(schema) }

// checkSchema reports whether this version may touch a table with that comment.
func checkSchema(table, comment string) error {
	number, ok := strings.CutPrefix(comment, schemaPrefix)
	found, err := strconv.Atoi(number)
	switch {
	case !ok || err != nil || found < 1:
		return fmt.Errorf("open table %s: %w: its comment is %q", table, nat.ErrForeign, comment)
	case found > schema:
		return fmt.Errorf("open table %s: %w: it has schema %d, this version knows %d", table, nat.ErrNewer, found, schema)
	}
	return nil
}
