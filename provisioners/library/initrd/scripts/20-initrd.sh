#!/bin/sh
# Creates an initrd for each kernel of the root: /boot/initrd.img-VERSION for /boot/vmlinuz-VERSION.
#
# The same files give the same bytes: initramfs-tools limits times to SOURCE_DATE_EPOCH, compresses
# with one thread and renumbers inodes. The default of SOURCE_DATE_EPOCH is the time of the kernel.
set -eu
umask 022
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
modules=$(sed 's/#.*//' /etc/initramfs-tools/modules)
made=0
for kernel in /boot/vmlinuz-*; do
  [ -e "$kernel" ] || continue
  version=${kernel#/boot/vmlinuz-}
  missing=
  for module in $modules; do
    modinfo -k "$version" "$module" >/dev/null 2>&1 || missing="$missing $module"
  done
  if [ -n "$missing" ]; then
    echo "the kernel $version has no module$missing" >&2
    exit 1
  fi
  initrd=/boot/initrd.img-$version
  SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(stat -c %Y "$kernel")} \
    mkinitramfs -o "$initrd" "$version"
  chmod 644 "$initrd"
  touch --reference="$kernel" "$initrd"
  # mkinitramfs omits missing files without an error, so check the result.
  lsinitramfs "$initrd" >/tmp/initrd.list
  for wanted in '^init$' 'bin/busybox$'; do
    if ! grep -q "$wanted" /tmp/initrd.list; then
      echo "$initrd: no file matches $wanted" >&2
      exit 1
    fi
  done
  echo "$initrd: $(stat -c %s "$initrd") bytes, $(wc -l </tmp/initrd.list) entries"
  rm /tmp/initrd.list
  made=$((made + 1))
done
if [ "$made" = 0 ]; then
  echo 'there is no kernel in /boot: set the variable `kernel` to the name of a package' >&2
  exit 1
fi
