// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// fieldNames are the JSON names of a struct's fields.
func fieldNames(v any) []string {
	var names []string
	doc := reflect.TypeOf(v)
	for i := range doc.NumField() {
		name, _, _ := strings.Cut(doc.Field(i).Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

func encode(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return string(text)
}

// The documents are a contract.
func TestMappings(t *testing.T) {
	web := parse(t, "8000-8001->[fd00::2]:80-81")
	dns := parse(t, "0.0.0.0:53->172.17.0.2:53/udp")
	dns.Name, dns.NoProxy = "dns", true
	dns.Expires = time.Date(2027, 1, 1, 0, 0, 0, 5e6, time.UTC)
	require.JSONEq(t, `[
		{"proto":"tcp","host":"","port":8000,"backend":"[fd00::2]:80","name":"","proxy":true},
		{"proto":"tcp","host":"","port":8001,"backend":"[fd00::2]:81","name":"","proxy":true},
		{"proto":"udp","host":"0.0.0.0","port":53,"backend":"172.17.0.2:53","name":"dns","proxy":false,"expires":"2027-01-01T00:00:00.005Z"}
	]`, encode(t, Mappings([]nat.Mapping{web, dns})))
	require.Equal(t, "[]", encode(t, Mappings(nil)))
	require.JSONEq(t, `[
		{"proto":"tcp","host":"","port":8000,"last":8001,"backend":"[fd00::2]:80","name":"","proxy":true},
		{"proto":"udp","host":"0.0.0.0","port":53,"backend":"172.17.0.2:53","name":"dns","proxy":false,"expires":"2027-01-01T00:00:00.005Z"}
	]`, encode(t, Ranges([]nat.Mapping{web, dns})))
	require.Equal(t, "[]", encode(t, Ranges(nil)))
}

func TestChanges(t *testing.T) {
	a, b := parse(t, "1->10.0.0.1:1"), parse(t, "1->10.0.0.2:1")
	one := `{"proto":"tcp","host":"","port":1,"backend":"10.0.0.1:1","name":"","proxy":true}`
	two := strings.ReplaceAll(one, "10.0.0.1", "10.0.0.2")
	require.JSONEq(t, `[{"new":[`+one+`]},{"old":[`+one+`]},{"old":[`+one+`],"new":[`+two+`]}]`,
		encode(t, Changes([]nat.Change{{New: a}, {Old: a}, {Old: a, New: b}})))
	require.Equal(t, "[]", encode(t, Changes(nil)))
	require.JSONEq(t, `[{"is":"network b"},{"was":"endpoint a"},{"was":"network a","is":"network A"}]`,
		encode(t, Changes([]nat.Change{{After: "network b"}, {Before: "endpoint a"}, {Before: "network a", After: "network A"}})))
}

func TestProblemUnwrapsUnknownCode(t *testing.T) {
	require.NoError(t, (&Problem{Code: "of tomorrow"}).Unwrap())
	require.NoError(t, (&Problem{Code: CodeInternal}).Unwrap())
}
