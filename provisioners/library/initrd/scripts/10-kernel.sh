#!/bin/sh
# Installs the kernel. INITRD=No prevents the hook of initramfs-tools from creating an initrd.
set -eu
kernel=$OVERCOAT_VAR_kernel
case $kernel in
  '') exit 0 ;;
  -* | *-) echo "kernel: invalid package name $kernel" >&2; exit 1 ;;
esac
# The options of overcoat's step for packages: the user _apt cannot read bind-mounted folders, and
# the root is in memory.
INITRD=No apt-get -y -q --no-install-recommends -oAPT::Sandbox::User=root -oDPkg::Use-Pty=0 \
  -oDir::Cache::pkgcache= -oDPkg::Options::=--force-confdef -oDPkg::Options::=--force-confold \
  -oDPkg::Options::=--force-unsafe-io install "$kernel"
