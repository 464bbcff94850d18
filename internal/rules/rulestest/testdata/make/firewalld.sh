# firewalld with its shipped zones, an opened port and a forwarded one, without D-Bus.
mount --make-rprivate /
work=$(mktemp -d)
trap 'umount /etc/firewalld; rm -rf "$work"' EXIT
cp -a /etc/firewalld "$work/etc"
mount --bind "$work/etc" /etc/firewalld
/usr/bin/python3 - <<'EOF'
from firewall.core.fw import Firewall
fw = Firewall()
fw.start()
fw.zone.add_port("public", "443", "tcp")
fw.zone.add_forward_port("public", "8081", "tcp", "81", "172.30.0.2")
EOF
