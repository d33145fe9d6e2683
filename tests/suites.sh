#!/bin/bash
# Runs an external test suite on an overcoat mount and on a tmpfs, and prints both results and their
# differences. docs/SEMANTICS.md describes the results. Must run as root:
#
#   tests/suites.sh pjdfstest DIR             the built source tree
#   tests/suites.sh fsx PROGRAM [OPTION…]     as built by xfstests or LTP
#   tests/suites.sh unionmount DIR [TEST…]    unionmount-testsuite
#   tests/suites.sh xfstests DIR [OPTION…]    built source tree; options of `check`, default -g generic/quick
#   tests/suites.sh stress-ng PROGRAM [OPTION…]
#
# OVERCOAT is the program, SIZE the capacity of a root or a tmpfs. AS=tar seals as tar between two
# mounts, which keeps access lists, and unpacks that; this works for tests that remove nothing. The
# folder with logs is printed and kept. Everything runs in a private mount namespace, because
# xfstests needs additional users.
set -euo pipefail
(($# >= 2)) || { sed -n 's/^# \{0,1\}//;2,14p' "$0"; exit 2; }
[[ ${SUITES_INSIDE-} ]] || SUITES_INSIDE=1 exec unshare --mount "$0" "$@"

export OVERCOAT=${OVERCOAT:-$(realpath "$(dirname "$0")/../target/release/overcoat")} SIZE=${SIZE:-1500M} AS=${AS:-squashfs}
suite=$1 source=$(realpath "$(type -P "$2")" 2>/dev/null || realpath "$2")
shift 2
export W
W=$(mktemp -d "${TMPDIR:-/tmp}/suites.XXXXXX")
chmod 755 "$W"
mkdir "$W"/{bin,root,tmpfs,state,base,scratch}
echo "logs: $W"

finish() {
  for dir in "$W"/*/; do
    while mountpoint -q "$dir"; do umount "$dir" || umount --lazy "$dir"; done
  done
  local bound
  for bound in "${BOUND[@]}"; do umount "$bound"; done
  rm -rf "$W"/{bin,state,base,base.squashfs,passwd,group,shadow}
}
BOUND=()
trap finish EXIT

# A base with a few files that fsx copies up; the first byte of a file is copied to the second.
{ printf 'aa'; head -c 3000000 /dev/urandom; } >"$W/base/large"
{ printf 'aa'; head -c 70001 /dev/urandom; } >"$W/base/small"
truncate --size 5000000 "$W/base/sparse"
head -c 100000 /dev/urandom | dd of="$W/base/sparse" bs=1 seek=1234567 conv=notrunc status=none
mksquashfs "$W/base" "$W/base.squashfs" -quiet -no-progress >"$W/mksquashfs.log"

bind() { # FILE PLACE: until the script ends
  mount --bind "$1" "$2"
  BOUND+=("$2")
}

place() { # root|tmpfs: mounts one with the files of the base
  if [[ $1 == root ]]; then
    "$OVERCOAT" mount --rw --upper-size "$SIZE" "$W/base.squashfs" "$W/root"
  else
    mount -t tmpfs -o "size=$SIZE" suites "$W/tmpfs"
    cp --sparse=always "$W"/base/* "$W/tmpfs"
  fi
}

pjdfstest() {
  place "$1"
  mkdir "$W/$1/tests" && cd "$W/$1/tests"
  TMPDIR=$PWD prove -r "$source/tests" || true
}

fsx() {
  place "$1"
  mkdir "$W/fsx"
  local one n=0
  for one in "new -l 262144" "grown -l 3000000 -o 200000 -c 1000" "large -k -o 200000" \
    "small -k -c 100" "sparse -k -f -o 150000" "aio -A -l 1000000 -o 100000" \
    "direct -Z -R -W -r 512 -w 512 -t 512 -l 1000000 -o 100000"; do
    set -- "$1" ${one#* } "${@:2}" # unquoted to split the options
    echo "$one: $("$source" -q -S $((++n)) -N "${OPERATIONS:-100000}" -P "$W/fsx" "${@:2}" "$W/$1/${one%% *}" 2>&1 | tail -n 1)"
    set -- "$1"
  done
  rm -r "$W/fsx"
}

stress-ng() {
  place "$1"
  "$source" --class filesystem --sequential 2 --timeout 5 --verify --temp-path "$W/$1" "${@:2}" 2>&1 || true
}

# Installs the mount and umount helpers for a root. The upper is discarded with the mount, so
# umount seals it first; the artifact is a layer of the next mount of the same source, because
# suites expect to find their files after remounting.
helpers() {
  cat >"$W/shim.c" <<'C'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
int mount(const char *s, const char *t, const char *f, unsigned long flags, const void *data) {
  int (*real)(const char *, const char *, const char *, unsigned long, const void *);
  *(void **)&real = dlsym(RTLD_NEXT, "mount");
  (void)s, (void)f; /* xfstests distinguishes mounts by source and expects the plain type. */
  return real(getenv("FROM"), t, "fuse", flags, data);
}
C
  cc -shared -fPIC -o "$W/bin/shim.so" "$W/shim.c" -ldl
  cat >"$W/bin/helper" <<'H'
#!/bin/bash
exec >>"$W/helper.log" 2>&1
export FROM=$1; dir=$2; shift 2; options=,
while getopts o:t:nsfv o; do [[ $o != o ]] || options+=$OPTARG,; done
[[ $options == *,ro,* ]] && mode=ro || mode=rw
[[ $options != *,remount,* ]] || exec mount --internal-only -o "remount,$mode" "$dir"
lower=$(sed -n 's/.*lowerdir=[^,]*:\([^,]*\).*/\1/p; s/.*lowerdir=\([^,:]*\),.*/\1/p' <<<"$options")
upper=$(sed -n 's/.*upperdir=\([^,]*\).*/\1/p' <<<"$options")
# A recreated lower folder begins a new test.
key=$(stat -c %i-%W "$lower")
[[ $key == $(cat "$W/state/key" 2>/dev/null) ]] || rm -rf "$W"/state/*."$AS"
echo "$key" >"$W/state/key"
rm -f "$W/lower.squashfs"; mksquashfs "$lower" "$W/lower.squashfs" -quiet -no-progress || exit
layers=("$W/lower.squashfs"); n=0
while [[ -e $W/state/$FROM.$n.$AS ]]; do layers+=("$W/state/$FROM.$n.$AS"); ((++n)); done
[[ $mode == rw ]] && rw=--rw || rw=
LD_PRELOAD=$W/bin/shim.so "$OVERCOAT" mount $rw --upper-size "$SIZE" "${layers[@]}" "$dir" || exit
[[ -z $upper || $n != 0 ]] || cp -a "$upper/." "$dir/"
H
  cat >"$W/bin/umount" <<'H'
#!/bin/bash
read -r from dir < <(awk -v t="${!#}" '($1 == t || $2 == t) && $3 == "fuse" {print $1, $2; exit}' /proc/mounts)
if [[ $dir ]]; then
  n=0; while [[ -e $W/state/$from.$n.$AS ]]; do ((++n)); done
  sealed=$W/state/$from.$n.$AS
  timeout 60 "$OVERCOAT" seal "$dir" --no-manifest -o "$sealed" >>"$W/helper.log" 2>&1
  if [[ $AS == tar && -e $sealed ]]; then # A tar is not a layer: unpack it into a folder.
    mv "$sealed" "$W/sealed" && mkdir "$sealed" &&
      tar --extract --acls --xattrs --xattrs-include='*' --numeric-owner --file "$W/sealed" --directory "$sealed"
  fi
fi
exec /usr/bin/umount "$@"
H
  chmod +x "$W"/bin/{helper,umount}
  bind "$W/bin/helper" "$(realpath "$(PATH=/sbin:/usr/sbin:$PATH type -P mount.fuse)")"
  PATH=$W/bin:$PATH
}

unionmount() {
  local how=(--no) more
  if [[ $1 == root ]]; then
    how=(--ov --fuse=overcoat)
    export UNIONMOUNT_BASEDIR=$W/scratch UNIONMOUNT_MNTPOINT=$W/root
    mount -t tmpfs -o "size=$SIZE" suites "$W/scratch"
  else
    unset UNIONMOUNT_BASEDIR
    export UNIONMOUNT_LOWERDIR=$W/tmpfs UNIONMOUNT_MNTPOINT=$W/scratch
    mount -t tmpfs -o "size=$SIZE" suites "$W/tmpfs"
  fi
  # With rotated layers, the suite expects the same inode numbers after remounting, which no archive
  # preserves: run a copy without that check.
  cp -r "$source" "$W/unionmount.$1"
  cd "$W/unionmount.$1"
  sed -i 's/if ino != ino2 or (dev != dev2 and not recycle):/if (ino != ino2 or dev != dev2) and not recycle:/' context.py
  for more in "" --ts=1; do
    python3 ./run "${how[@]}" $more "${@:2}" 2>&1 || echo "failed: $more"
    umount "$UNIONMOUNT_MNTPOINT" || true
  done
  [[ $1 == tmpfs ]] || python3 ./run --ov=4 "${how[@]:1}" "${@:2}" 2>&1 || echo "failed: --ov=4"
}

# Adds the users that xfstests requires.
users() {
  local file user
  for file in passwd group shadow; do
    cp --preserve "/etc/$file" "$W/$file"
    for user in fsgqa:20001 fsgqa2:20002 123456-fsgqa:20003; do
      case $file in
        passwd) echo "${user/:/:x:}:${user#*:}::/tmp:/bin/bash" ;;
        group) echo "${user/:/:x:}:" ;;
        shadow) echo "${user%:*}:*:20000:0:99999:7:::" ;;
      esac
    done >>"$W/$file"
    bind "$W/$file" "/etc/$file"
  done
}

xfstests() {
  mkdir -p "$W/results.$1" "$W/empty"
  export HOST_OPTIONS=/nonexistent RESULT_BASE=$W/results.$1 TEST_DIR=$W/$1 SCRATCH_MNT=$W/scratch
  if [[ $1 == root ]]; then
    export FSTYP=fuse FUSE_SUBTYP=.overcoat TEST_DEV=overcoat1 SCRATCH_DEV=overcoat2
    export MOUNT_OPTIONS="-o lowerdir=$W/empty" TEST_FS_MOUNT_OPTS="-o lowerdir=$W/empty"
  else
    export FSTYP=tmpfs TEST_DEV=tmpfs1 SCRATCH_DEV=tmpfs2
    export MOUNT_OPTIONS="-o size=$SIZE" TEST_FS_MOUNT_OPTS="-o size=$SIZE"
    unset FUSE_SUBTYP
  fi
  cd "$source"
  shift
  (($#)) || set -- -g generic/quick
  ./check "$@" 2>&1 || true
}

# Prints the comparable part of a log, without times and paths.
results() {
  sed -e "s#$W/[a-z.]*##g" "$1" | case $suite in
    pjdfstest) grep -E '\.t \.+|^Files|^Result|Failed' | sed 's/ *[0-9]* wallclock.*//' ;;
    fsx) cat ;;
    unionmount) grep -aE '^TEST|^failed|Error' | sort -u ;;
    xfstests) grep -E '^generic/' | sed -E 's/ +([0-9.]+s( \.\.\. +)?)+$/ passed/; s/ +/ /; s/ - output mismatch.*/ failed/' ;;
    stress-ng) grep -vE 'metrc|info: .*(dispatching|removing|allocated|completed)' | sed 's/\[[0-9]*\]//' ;;
  esac
}

case $suite in
  unionmount) helpers ;;
  xfstests) helpers && users ;;
esac
for where in root tmpfs; do
  ("$suite" "$where" "$@") >"$W/$where.log" || echo "$suite ended with $? on $where"
  results "$W/$where.log" >"$W/$where.results" || true
  [[ -s $W/$where.results ]] || { echo "no tests were run: see $W/$where.log" >&2; exit 1; }
  echo "$where: $(wc -l <"$W/$where.results") results, including $(grep -ciE 'fail|error|bad' "$W/$where.results") failures"
  for dir in "$W/$where" "$W/scratch"; do
    while mountpoint -q "$dir"; do /usr/bin/umount "$dir" || sleep 1; done
  done
done
diff --unified=0 "$W/root.results" "$W/tmpfs.results" && echo "no differences"
