#!/bin/bash
# Downloads the packages of the field tests, as root, into build/lab/field (or $OVERCOAT_LAB/field):
# an apt repository, and a list of the groups of packages that are installed together. The first run
# takes some minutes, mostly for downloads.
set -euo pipefail

here=$(cd "$(dirname "$0")/../.." && pwd)
lab=${OVERCOAT_LAB:-$here/build/lab}
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

[[ $(id -u) = 0 ]] || { echo "$0: run it as root" >&2; exit 1; }
"$here/tests/set-up.sh"

# Packages whose maintainer scripts read the host name, name servers, certificates or proxies. The
# packages of a line are installed together.
groups=$(cat <<'GROUPS'
postfix dovecot-imapd opendkim opendmarc postgrey fetchmail mlmmj
exim4-daemon-light bsd-mailx greylistd
nullmailer mailutils
dma
opensmtpd
bind9 unbound dnsmasq pdns-server pdns-recursor knot nsd ldnsutils resolvconf
systemd-resolved systemd-sysv libnss-resolve libnss-myhostname ifupdown isc-dhcp-client
slapd ldap-utils krb5-kdc krb5-admin-server krb5-user sssd nslcd libnss-ldapd
samba winbind libpam-winbind
ssl-cert apache2 nginx-light lighttpd stunnel4 openvpn strongswan ca-certificates
default-jre-headless ca-certificates-java
apt-cacher-ng auto-apt-proxy squid chrony rsyslog snmpd munin-node
nagios-nrpe-server zabbix-agent collectd-core mdadm nfs-common autofs cloud-init leafnode
GROUPS
)

folder=$lab/field
mkdir -p "$folder"
if [[ ! -s $folder/repo/Packages || $(cat "$folder/groups" 2>/dev/null) != "$groups" ]]; then
  work=$(mktemp -d "$folder/set-up.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  mkdir "$work/root" "$work/repo"
  tar xf "$lab/base.tar" -C "$work/root"
  # The root uses the host's name servers, proxies and certificates.
  cp -L /etc/resolv.conf "$work/root/etc/"
  apt-config dump | grep -E '^Acquire::(http|https)::(Proxy|CaInfo) ' \
    >"$work/root/etc/apt/apt.conf.d/99host" || :
  if [[ -s /etc/ssl/certs/ca-certificates.crt ]]; then
    cp -L /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/"
  fi
  chroot "$work/root" apt-get update -qq
  while read -r group; do
    # shellcheck disable=SC2086 # the words are packages
    chroot "$work/root" apt-get install -y -qq --no-install-recommends --download-only $group \
      >/dev/null
  done <<<"$groups"
  mv "$work"/root/var/cache/apt/archives/*.deb "$work/repo/"
  (cd "$work/repo" && dpkg-scanpackages -m . 2>/dev/null >Packages)
  rm -rf "$folder/repo"
  mv "$work/repo" "$folder/"
  echo "$groups" >"$folder/groups"
fi
chmod -R a+rX "$folder"
echo "ready: $(ls "$folder"/repo/*.deb | wc -l) packages in $(wc -l <"$folder/groups") groups"
