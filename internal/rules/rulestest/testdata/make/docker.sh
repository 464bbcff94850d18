# dockerd with a network and two containers that have published ports; all of it in a directory that goes.
mount --make-rprivate /
work=$(mktemp -d)
docker="docker -H unix://$work/sock"
trap '$docker rm -f $($docker ps -q); kill $(cat "$work/pid"); wait; rm -rf "$work"' EXIT
dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid" -H "unix://$work/sock" --userland-proxy=false 2>"$work/log" &
for _ in $(seq 100); do $docker info >/dev/null 2>&1 && break; sleep 0.1; done
mkdir "$work/root"
cat >"$work/sleep.go" <<'EOF'
package main

import "time"

func main() { time.Sleep(time.Hour) }
EOF
CGO_ENABLED=0 go build -o "$work/root/sleep" "$work/sleep.go"
tar -C "$work/root" -c . | $docker import - tiny
$docker network create --subnet 172.28.0.0/16 --opt com.docker.network.bridge.name=br-app app
$docker run -d -p 8080:80 --network app tiny /sleep
$docker run -d -p 53:53/udp -p 127.0.0.1:443:8443 tiny /sleep
iptables-save >"$work/rules" # which go with the containers, and are put back when these are gone
trap - EXIT
$docker rm -f $($docker ps -q)
kill "$(cat "$work/pid")"
wait
iptables-restore <"$work/rules"
rm -rf "$work"
