#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: socat 1.7.4.4
# Expected: socat between a client and a server passes a half-closed connection on until both ends are done
# Happens: half a second after the client has closed its side, socat closes the other: an answer that takes longer is lost, without an error (-t changes the half second)
#
# Seen: "answer" directly, nothing through socat.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb socat=1.7.4.4-2
	cat >"$DIR/server.py" <<-'END'
		import socket, time
		server = socket.create_server(("127.0.0.1", 9000))
		while True:
		    peer, _ = server.accept()
		    while peer.recv(4096):
		        pass
		    time.sleep(1.5)
		    peer.sendall(b"answer")
		    peer.close()
	END
	cat >"$DIR/client.py" <<-'END'
		import socket, sys
		server = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
		server.sendall(b"question")
		server.shutdown(socket.SHUT_WR)
		print("received:", server.makefile().read())
	END
}

show() {
	socat -V | head -2
	python3 "$DIR/server.py" &
	socat TCP-LISTEN:9001,fork TCP:127.0.0.1:9000 &
	until (($(ss -Hltn | wc -l) == 2)); do sleep 0.1; done
	expect 'directly' 'received: answer' "$(python3 "$DIR/client.py" 9000)"
	expect_not 'through socat' 'answer' "$(python3 "$DIR/client.py" 9001)"
}

run
