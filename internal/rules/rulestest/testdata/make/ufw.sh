# ufw with its shipped rules, and some of a user. Its files are those of a copy.
mount --make-rprivate /
work=$(mktemp -d)
trap 'umount /etc/ufw; rm -rf "$work"' EXIT
cp -a /etc/ufw "$work/etc"
mount --bind "$work/etc" /etc/ufw
ufw allow 22/tcp
ufw allow from 192.0.2.0/24 to any port 8080 proto tcp
ufw limit 2222/tcp
ufw deny 53/udp
ufw route allow in on eth0 out on br0 to 172.30.0.2 port 80 proto tcp
ufw --force enable
