#!/bin/sh
# Installs the kernel. Its own hooks make no initrd: INITRD=No tells those of initramfs-tools.
set -eu
kernel=$OVERCOAT_VAR_kernel
case $kernel in
  '') exit 0 ;;
  -* | *-) echo "kernel: $kernel is no package" >&2; exit 1 ;;
esac
# As overcoat's own step installs packages: apt's own user can read no bound folders, and the root
# is in memory.
INITRD=No apt-get -y -q --no-install-recommends -oAPT::Sandbox::User=root -oDPkg::Use-Pty=0 \
  -oDir::Cache::pkgcache= -oDPkg::Options::=--force-confdef -oDPkg::Options::=--force-confold \
  -oDPkg::Options::=--force-unsafe-io install "$kernel"
