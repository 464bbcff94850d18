#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: nft 1.0.6, Linux 6.18
# Expected: a file that `nft -f` loads with exit status 0 leaves its tables in the kernel
# Happens: a table whose saved form says `flags owner` is owned by nft itself while it loads the file, and is gone when nft exits
#
# Seen: exit status 0; of the two tables of the file, "table inet plain" alone.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
}

show() {
	nft --version
	# As nft list ruleset prints a table that a daemon owns.
	cat >"$DIR/saved" <<-END
		table inet held {
			flags owner
			chain c {
			}
		}
		table inet plain {
			chain c {
			}
		}
	END
	nft -f "$DIR/saved"
	echo "exit status of nft -f: $?"
	expect 'nft list tables' 'table inet plain' "$(nft list tables)"
	expect_not 'nft list tables' 'table inet held' "$(nft list tables)"
}

run
