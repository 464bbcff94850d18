# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Sourced by each finding, which defines prepare (fetches what it needs; runs outside)
# and show (runs in network and mount namespaces of its own, as root of them), and ends
# with "run". What either makes in $DIR is removed at the end.
set -euo pipefail

# deb PACKAGE=VERSION... unpacks packages of Debian below $DIR, without installing them.
deb() {
	(
		cd "$DIR"
		apt-get download -q "$@" >/dev/null 2>fetch.log || { cat fetch.log >&2; exit 3; }
		for file in ./*.deb; do dpkg-deb -x "$file" root; done
		rm ./*.deb
	)
}

# module PATH@VERSION builds $DIR/main.go with that Go module, as $DIR/main.
module() {
	(
		cd "$DIR"
		go mod init finding && go get "$@" && go mod tidy && CGO_ENABLED=0 go build -o main .
	) >"$DIR/fetch.log" 2>&1 || { cat "$DIR/fetch.log" >&2; exit 3; }
}

# expect WHAT TEXT OUTPUT requires that the output has the text.
expect() {
	printf -- '-- %s\n%s\n' "$1" "$3"
	[[ $3 == *"$2"* ]] || { printf 'CHANGED: expected "%s"\n' "$2" >&2; exit 1; }
}

# expect_not WHAT TEXT OUTPUT requires that the output does not have the text.
expect_not() {
	printf -- '-- %s\n%s\n' "$1" "$3"
	[[ $3 != *"$2"* ]] || { printf 'CHANGED: did not expect "%s"\n' "$2" >&2; exit 1; }
}

run() {
	if [[ -z ${DIR-} ]]; then
		DIR=$(mktemp -d)
		trap 'rm -rf "$DIR"' EXIT
		prepare
		local user=()
		((EUID == 0)) || user=(--user --map-root-user)
		DIR=$DIR unshare "${user[@]}" --net --mount --pid --fork --kill-child --mount-proc "$BASH" "$0"
		return
	fi
	export PATH=$DIR/root/usr/sbin:$DIR/root/usr/bin:$DIR/root/sbin:$DIR/root/bin:$PATH:/usr/sbin:/sbin
	# Libraries of the same package may lie beside the program.
	local machine
	machine=$(uname -m)-linux-gnu
	export LD_LIBRARY_PATH=$DIR/root/usr/lib/$machine:$DIR/root/lib/$machine
	ip link set lo up
	echo "Linux $(uname -r)"
	show
}
