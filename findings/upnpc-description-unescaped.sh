#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: miniupnpc 2.2.4
# Expected: the description of a mapping, a text, is escaped where the library puts it into a request
# Happens: it is copied as it is, so that one with an ampersand makes a request that is no XML, which strict gateways refuse; programs have to escape it themselves
#
# Seen: `games & more` between the tags of NewPortMappingDescription.
. "$(dirname "$0")/lib.sh"

prepare() { upnp_deb; }

show() {
	upnp_gateway cdata "$DIR/log"
	upnpc -u http://127.0.0.1:5555/d -e 'games & more' -a 127.0.0.1 80 8080 TCP >/dev/null 2>&1 || true
	expect "the description in the request" "<NewPortMappingDescription>games & more</NewPortMappingDescription>" "$(cat "$DIR/log")"
}

run
