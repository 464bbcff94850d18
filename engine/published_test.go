// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// What is published has all its ports, and leads where it is said to; when it ends does not matter.
func TestPublished(t *testing.T) {
	b := newTestbed()
	e := b.open(t)
	web := nattest.Mapping(t, "8080->172.30.0.2:80")
	web.Name, web.Expires = "web", b.clock.Now().Add(time.Hour)
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, web, nattest.Mapping(t, "9000-9019->172.30.0.2:9000-9019"), nattest.Mapping(t, "7000-7009->172.30.0.2:70-79"))
	require.NoError(t, err)
	named := func(text, name string) nat.Mapping {
		m := nattest.Mapping(t, text)
		m.Name = name
		return m
	}
	there := []nat.Mapping{
		web, named("8080->172.30.0.2:80", "web"), named("9000-9019->172.30.0.2:9000-9019", ""), named("9007->172.30.0.2:9007", ""),
		named("7000-7009->172.30.0.2:70-79", ""), named("7001-7002->172.30.0.2:71-72", ""),
	}
	not := []nat.Mapping{
		named("8080->172.30.0.3:80", "web"), named("8080->172.30.0.2:80", ""), named("8080->172.30.0.2:80/udp", "web"),
		named("192.0.2.1:8080->172.30.0.2:80", "web"), named("9000-9020->172.30.0.2:9000-9020", ""), named("7001->172.30.0.2:72", ""),
	}
	got, err := e.Published(t.Context(), append(not, there...)...)
	require.NoError(t, err)
	require.Equal(t, there, got)
	_, err = e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{named("9007->172.30.0.2:9007", "")}})
	require.NoError(t, err)
	got, err = e.Published(t.Context(), there[2:]...)
	require.NoError(t, err)
	require.Equal(t, there[4:], got)
}
