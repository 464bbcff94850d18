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

# firewalld_deb unpacks firewalld, which is Python and needs a bus.
firewalld_deb() {
	deb firewalld=1.3.3-1~deb12u2 python3-firewall=1.3.3-1~deb12u2 python3-nftables nftables libnftables1 libnftnl11 libjansson4 \
		gir1.2-nm-1.0 libnm0 python3-dbus python3-gi gir1.2-glib-2.0 libgirepository-1.0-1 libglib2.0-0 dbus-daemon dbus-bin
}

# firewalld_start starts it, with a system bus of its own, and does not wait for it.
firewalld_start() {
	mount -t tmpfs tmpfs /run
	mount -t tmpfs tmpfs /var/log
	export PYTHONPATH=$DIR/root/usr/lib/python3/dist-packages DBUS_SYSTEM_BUS_ADDRESS=unix:path=$DIR/bus
	GI_TYPELIB_PATH=$DIR/root/usr/lib/girepository-1.0:$DIR/root/usr/lib/$(uname -m)-linux-gnu/girepository-1.0
	export GI_TYPELIB_PATH
	cat >"$DIR/bus.conf" <<-END
		<busconfig><type>system</type><listen>$DBUS_SYSTEM_BUS_ADDRESS</listen><auth>EXTERNAL</auth>
		<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>
	END
	dbus-daemon --config-file="$DIR/bus.conf" --nofork --nopidfile &
	until [[ -S $DIR/bus ]]; do sleep 0.1; done
	/usr/bin/python3 "$DIR/root/usr/sbin/firewalld" --nofork --nopid --system-config "$DIR/root/etc/firewalld" \
		--default-config "$DIR/root/usr/lib/firewalld" >"$DIR/log" 2>&1 &
}

firewall_cmd() { /usr/bin/python3 "$DIR/root/usr/bin/firewall-cmd" "$@"; }

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

# upnp_deb unpacks upnpc and what it needs.
upnp_deb() { deb miniupnpc=2.2.4-1+b1 libminiupnpc17=2.2.4-1+b1; }

# upnp_gateway FORM LOG starts an Internet Gateway Device, version 2, at http://127.0.0.1:5555/d. It answers
# GetListOfPortMappings with one mapping, in the form "escaped" or "cdata", and writes the descriptions of
# requests to the log.
upnp_gateway() {
	cat >"$DIR/gateway.py" <<-'END'
		import html, http.server, re, sys
		form, log = sys.argv[1:]
		urn = 'urn:schemas-upnp-org:'
		def service(kind, path): return f'<serviceList><service><serviceType>{urn}service:{kind}</serviceType><controlURL>{path}</controlURL></service></serviceList>'
		def device(kind, inside): return f'<device><deviceType>{urn}device:{kind}:2</deviceType>{inside}</device>'
		def nested(d): return f'<deviceList>{d}</deviceList>'
		connection = device('WANConnectionDevice', service('WANIPConnection:2', '/i'))
		wan = device('WANDevice', service('WANCommonInterfaceConfig:1', '/c') + nested(connection))
		root = '<root>' + device('InternetGatewayDevice', nested(wan)) + '</root>'
		entry = {'RemoteHost': '', 'ExternalPort': 8080, 'Protocol': 'TCP', 'InternalPort': 80, 'InternalClient': '127.0.0.1', 'Enabled': 1, 'Description': 'web', 'LeaseTime': 60}
		listing = '<p:PortMappingList><p:PortMappingEntry>' + ''.join(f'<p:New{k}>{v}</p:New{k}>' for k, v in entry.items()) + '</p:PortMappingEntry></p:PortMappingList>'
		listing = f'<![CDATA[{listing}]]>' if form == 'cdata' else html.escape(listing)
		answers = {'GetStatusInfo': '<NewConnectionStatus>Connected</NewConnectionStatus>', 'GetExternalIPAddress': '<NewExternalIPAddress>9.9.9.9</NewExternalIPAddress>', 'GetListOfPortMappings': f'<NewPortListing>{listing}</NewPortListing>'}
		class Handler(http.server.BaseHTTPRequestHandler):
		    def log_message(self, *args): pass
		    def answer(self, text):
		        self.send_response(200); self.send_header('Content-Length', str(len(text))); self.end_headers(); self.wfile.write(text.encode())
		    def do_GET(self): self.answer(root)
		    def do_POST(self):
		        body = self.rfile.read(int(self.headers['Content-Length'])).decode()
		        action = self.headers['SOAPAction'].strip('"').split('#')[1]
		        for text in re.findall('<NewPortMappingDescription>.*</NewPortMappingDescription>', body):
		            print(text, file=open(log, 'a'))
		        self.answer(f'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><u:{action}Response xmlns:u="{urn}service:WANIPConnection:2">{answers.get(action, "")}</u:{action}Response></s:Body></s:Envelope>')
		http.server.ThreadingHTTPServer(('127.0.0.1', 5555), Handler).serve_forever()
	END
	/usr/bin/python3 "$DIR/gateway.py" "$1" "$2" &
	until (: </dev/tcp/127.0.0.1/5555) 2>/dev/null; do sleep 0.1; done
}
