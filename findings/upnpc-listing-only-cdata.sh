#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: miniupnpc 2.2.4
# Expected: the string NewPortListing of GetListOfPortMappings has XML in it, and a client that reads it as XML does sees the same whether the server escapes it or puts it in CDATA
# Happens: the library keeps the text as it stands: from an escaped listing `upnpc -L` prints no mapping and no error, from CDATA all of them
#
# Seen: from CDATA the mapping twice, since it asks for UDP too; escaped, the heading of the table alone.
. "$(dirname "$0")/lib.sh"

prepare() { upnp_deb; }

show() {
	local form out
	upnpc --help 2>&1 | head -n 1 || true
	for form in cdata escaped; do
		upnp_gateway "$form" "$DIR/log"
		out=$(upnpc -u http://127.0.0.1:5555/d -L 2>&1 | tail -n 4)
		kill %%
		wait %% 2>/dev/null || true
		if [[ $form == cdata ]]; then
			expect "a listing in CDATA" "8080->127.0.0.1:80" "$out"
		else
			expect_not "the same, escaped" "8080->" "$out"
		fi
	done
}

run
