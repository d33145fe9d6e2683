"""The parts of scale.sh. Each prints rows of a table: the case, the amounts, the costs."""

import ctypes
import itertools
import os
import shutil
import subprocess
import sys
import time

OVERCOAT, WORK, *PARTS = sys.argv[1:]
MNT = f"{WORK}/mnt"
FILES = int(os.environ.get("SCALE_FILES", 1_000_000))
LIBC = ctypes.CDLL(None, use_errno=True)
PUNCH = 0x02 | 0x01


def row(what, *values):
    print("| " + " | ".join([what, *map(str, values)]) + " |", flush=True)


def overcoat(*words, check=True):
    done = subprocess.run([OVERCOAT, *words], capture_output=True, text=True, errors="replace")
    if check and done.returncode:
        raise SystemExit(f"{words}: {done.stderr}")
    return done


class Mount:
    def __init__(self, *layers, size="6G", mnt=MNT):
        self.mnt = mnt
        os.makedirs(mnt, exist_ok=True)
        began = time.perf_counter()
        # In the foreground, so that its process id is known.
        self.server = subprocess.Popen(
            [OVERCOAT, "mount", "-f", "--rw", "--upper-size", size, *layers, mnt])
        device = os.stat(WORK).st_dev
        while os.stat(mnt).st_dev == device:
            time.sleep(0.001)
        self.ready = time.perf_counter() - began

    def __enter__(self):
        return self

    def __exit__(self, *_):
        overcoat("umount", self.mnt)
        self.server.wait()

    def rss(self):
        with open(f"/proc/{self.server.pid}/statm") as file:
            return int(file.read().split()[1]) * 4096

    def settled(self):
        """Returns the memory after the server has finished its background work."""
        time.sleep(1)
        return self.rss()


def forget():
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("2")


def timed(run):
    began = time.perf_counter()
    result = run()
    return time.perf_counter() - began, result


def mib(count):
    return f"{count / (1 << 20):.1f} MiB"


def micro(seconds, count):
    return f"{seconds * 1e6 / count:.1f} µs"


def base():
    path = f"{WORK}/base.squashfs"
    if not os.path.exists(path):
        os.makedirs(f"{WORK}/base/etc")
        with open(f"{WORK}/base/etc/hostname", "w") as file:
            file.write("base\n")
        subprocess.run(["mksquashfs", f"{WORK}/base", path, "-quiet", "-no-progress"], check=True)
    return path


def touch(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))


def directory():
    row("a directory of", "create", "names alone", "names and attributes", "delete", "resident")
    with Mount(base()) as mount:
        before = mount.rss()
        for count in (25_000, 50_000, 100_000, 200_000):
            path = f"{MNT}/dir"
            os.mkdir(path)
            made, _ = timed(lambda: [touch(f"{path}/name-{n}") for n in range(count)])
            most = mount.rss()
            forget()
            named, names = timed(lambda: os.listdir(path))
            assert len(names) == count
            seen, _ = timed(lambda: [entry.stat() for entry in os.scandir(path)])
            gone, _ = timed(lambda: [os.unlink(f"{path}/{name}") for name in names])
            os.rmdir(path)
            row(f"{count} entries", micro(made, count), micro(named, count), micro(seen, count),
                micro(gone, count), f"{mib(most - before)}, then {mib(mount.settled() - before)}")


def million():
    with Mount(base()) as mount:
        before = mount.rss()

        def make():
            for n in range(FILES):
                if n % 1000 == 0:
                    dir = f"{MNT}/{n // 1000:05}"
                    os.mkdir(dir)
                touch(f"{dir}/{n:08}")
        made, _ = timed(make)
        held = mount.rss() - before
        forget()
        kept = mount.settled() - before
        row(f"{FILES} empty files created", micro(made, FILES) + " each")
        row("memory while the kernel caches them", mib(held), f"{held // FILES} bytes each")
        row("memory after dropping the kernel's caches", mib(kept), f"{kept // FILES} bytes each")
        walked, _ = timed(lambda: subprocess.run(["find", MNT, "-size", "+1000k"], check=True))
        row("find on them", micro(walked, FILES) + " each")
        touch(f"{MNT}/one-more")
        one, _ = timed(lambda: [os.rename(f"{MNT}/one-more", f"{MNT}/one-more-{n}") or
                                os.rename(f"{MNT}/one-more-{n}", f"{MNT}/one-more")
                                for n in range(1000)])
        row("renaming one of them", micro(one, 2000))
        sealed, _ = timed(lambda: overcoat("seal", MNT, "--no-manifest", "-o", f"{WORK}/m.tar"))
        row("sealing them as tar", micro(sealed, FILES) + " each")
        os.unlink(f"{WORK}/m.tar")
        gone, _ = timed(lambda: subprocess.run(
            f"rm -r {MNT}/[0-9]*", shell=True, check=True))
        row("deleting them", micro(gone, FILES) + " each")
        row("memory then", mib(mount.settled() - before))


def small():
    count = 100_000
    with Mount(base()) as mount:
        before = mount.rss()
        for n in range(count):
            if n % 1000 == 0:
                dir = f"{MNT}/{n // 1000:05}"
                os.mkdir(dir)
            with open(f"{dir}/{n:08}", "wb", buffering=0) as file:
                file.write(b"x" * 100)
        held = mount.rss() - before
        row("100,000 files of 100 bytes", mib(held), f"{held // count} bytes each")
        subprocess.run(f"rm -r {MNT}/0*", shell=True, check=True)
        row("deleted", mib(mount.settled() - before))
        with open(f"{MNT}/zeros", "wb") as file:
            for _ in range(1024):
                file.write(bytes(1 << 20))
        row("1 GiB of zeros", mib(mount.rss() - before))


def deep():
    depth = 1000
    with Mount(base()) as mount:
        before = mount.rss()
        top = os.open(MNT, os.O_RDONLY)

        def make(parent):
            at = os.dup(parent)
            os.mkdir("top", dir_fd=at)
            for name in ["top"] + ["d"] * depth:
                if name == "d":
                    os.mkdir(name, dir_fd=at)
                below = os.open(name, os.O_RDONLY, dir_fd=at)
                os.close(at)
                at = below
            return at
        made, last = timed(lambda: make(top))
        touch_at = os.open("file", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=last)
        os.close(touch_at)
        path = f"{MNT}/top" + "/d" * depth + "/file"
        row(f"{depth} levels created", micro(made, depth) + " each")
        forget()
        looked, _ = timed(lambda: os.stat(path))
        row("looking up the file at the end by its path", micro(looked, depth) + " a level")
        renamed, _ = timed(lambda: os.rename(f"{MNT}/top", f"{MNT}/new"))
        row("renaming the top directory", f"{renamed * 1e3:.1f} ms")
        os.stat(path.replace("/top/", "/new/"))
        for format in ("cpio", "tar", "squashfs"):
            out = f"{WORK}/deep.{format}"
            sealed, _ = timed(lambda: overcoat("seal", MNT, "--no-manifest", "-o", out))
            to = f"{WORK}/out"
            os.mkdir(to)
            how = {"cpio": ["cpio", "--quiet", "-id", "-F", out], "tar": ["bsdtar", "-xf", out],
                   "squashfs": ["unsquashfs", "-q", "-n", "-d", "x", out]}[format]
            subprocess.run(how, cwd=to, check=True, stdout=subprocess.DEVNULL)
            there = to + ("/x" if format == "squashfs" else "") + "/new" + "/d" * depth + "/file"
            row(f"sealed as {format} and unpacked", f"{sealed:.2f} s", os.path.exists(there))
            shutil.rmtree(to) if depth < 500 else subprocess.run(["rm", "-r", to], check=True)
        os.close(last)
        os.close(top)
        subprocess.run(["rm", "-r", f"{MNT}/new"], check=True)
        forget()
        row("memory after deleting them", mib(mount.settled() - before))


def sparse():
    size = 100 << 30
    with Mount(base()) as mount:
        before = mount.rss()
        path = f"{MNT}/sparse"

        def make():
            with open(path, "wb", buffering=0) as file:
                file.write(b"begin")
                os.pwrite(file.fileno(), b"end", size - 3)
        made, _ = timed(make)
        row("a file of 100 GiB, written at both ends", f"{made * 1e3:.1f} ms", mib(mount.rss() - before))
        file = os.open(path, os.O_RDWR)
        found, at = timed(lambda: os.lseek(file, 1 << 20, os.SEEK_DATA))
        row("SEEK_DATA over the hole", f"{found * 1e3:.1f} ms", at)
        call = LIBC.fallocate
        call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]
        punched, answer = timed(lambda: call(file, PUNCH, 1, size - 2))
        row("punching a hole between them", f"{punched * 1e3:.1f} ms", answer)
        os.close(file)
        done = overcoat("seal", MNT, "-o", f"{WORK}/s.cpio", check=False)
        row("sealed as cpio", f"refused ({done.returncode})", done.stderr.strip())
        # A tar contains all zeros of the hole.
        sealed, size = timed(lambda: subprocess.run(
            f"{OVERCOAT} seal {MNT} --format tar -o - | wc -c", shell=True, check=True,
            capture_output=True, text=True).stdout.strip())
        row("sealed as tar", f"{sealed:.1f} s", f"{size} bytes")
        out = f"{WORK}/s.squashfs"
        sealed, _ = timed(lambda: overcoat("seal", MNT, "--no-manifest", "-o", out))
        row("sealed as squashfs", f"{sealed:.1f} s", f"{os.path.getsize(out)} bytes")
        os.unlink(path)


def full():
    with Mount(base(), size="64M") as mount:
        before = mount.rss()
        number = 0
        try:
            while True:
                with open(f"{MNT}/{number:06}", "wb", buffering=0) as file:
                    if file.write(b"x" * 10_000) < 10_000:
                        break
                number += 1
        except OSError as error:
            row("filling an upper of 64 MiB", f"{number} files of 10 kB", os.strerror(error.errno))
        row("memory", mib(mount.rss() - before))
        row("listed", len(os.listdir(MNT)))
        sealed, _ = timed(lambda: overcoat("seal", MNT, "--no-manifest", "-o", f"{WORK}/f.cpio.gz"))
        row("sealed", f"{sealed:.1f} s")
        subprocess.run(f"rm {MNT}/[0-9]*", shell=True, check=True)
        touch(f"{MNT}/again")
        row("memory after deleting them", mib(mount.settled() - before))


def images(count, entries):
    """Makes layers: 2/5 of the entries are in one directory, the others in directories of 300."""
    tree, flat, paths = f"{WORK}/tree", entries * 2 // 5, []
    own = f"{tree}/layer-0"
    os.makedirs(f"{own}/flat")
    for n in range(flat):
        touch(f"{own}/flat/name-{n:08}")
    for n in range(flat, entries):
        if (n - flat) % 300 == 0:
            dir = f"{own}/tree/{(n - flat) // 300:04}"
            os.makedirs(dir)
        touch(f"{dir}/name-{n:08}")
    for number in range(count):
        os.rename(own, f"{tree}/layer-{number}")
        own = f"{tree}/layer-{number}"
        # A directory that all layers have, with different names in each.
        os.makedirs(f"{tree}/all")
        for n in range(entries // 50):
            touch(f"{tree}/all/{number}-{n:08}")
        path = f"{WORK}/layer-{number}.squashfs"
        # Without duplicate detection, which would dominate the run time.
        subprocess.run(["mksquashfs", tree, path, "-quiet", "-no-progress", "-no-duplicates"],
                       check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(f"{tree}/all")
        paths.append(path)
    shutil.rmtree(tree)
    return paths


def layers():
    row("an image of", "mounted", "memory", "stat", "stat, none there", "create", "rename",
        "stat of a merged directory")
    for count, entries in ((1, 5_000), (1, 500_000), (4, 500_000)):
        layers = images(count, entries)
        with Mount(*layers) as mount:
            what = f"{count} × {entries}"
            before = mount.rss()
            step = max(1, entries * 2 // 5 // 1000)
            paths = [f"{MNT}/layer-{n % count}/flat/name-{n * step:08}" for n in range(1000)]
            looked, _ = timed(lambda: [os.stat(path) for path in paths])
            none, _ = timed(lambda: [os.path.exists(path + "x") for path in paths])
            made, _ = timed(lambda: [touch(f"{MNT}/layer-0/flat/new-{n}") for n in range(1000)])
            renamed, _ = timed(lambda: [os.rename(path, path + "y") for path in paths])
            forget()
            merged, _ = timed(lambda: os.stat(f"{MNT}/all"))
            row(what, f"{mount.ready * 1e3:.0f} ms", mib(before), micro(looked, 1000),
                micro(none, 1000), micro(made, 1000), micro(renamed, 1000),
                f"{merged * 1e3:.2f} ms")
            sealed, _ = timed(lambda: overcoat("seal", MNT, "--no-manifest", "-o", f"{WORK}/l.tar"))
            row(f"{what}: sealed", f"{sealed:.2f} s")
            flat = entries * 2 // 5
            for n in range(count):
                forget()
                listed, _ = timed(lambda: os.listdir(f"{MNT}/layer-{n}/flat"))
                row(f"{what}: the flat directory of layer {n} listed", micro(listed, flat),
                    mib(mount.rss()))
            listed, names = timed(lambda: os.listdir(f"{MNT}/all"))
            row(f"{what}: a merged directory listed", micro(listed, len(names)), mib(mount.rss()))
            forget()
            # Two concurrent listings, a page in turn.
            def both():
                a, b = (os.scandir(f"{MNT}/layer-{n}/flat") for n in (0, count - 1))
                return sum(1 for _ in itertools.islice(zip(a, b), 20_000))
            if count > 1:
                listed, seen = timed(both)
                row(f"{what}: two listed in turn", micro(listed, 2 * seen), mib(mount.rss()))
            walked, _ = timed(lambda: subprocess.run(["find", MNT, "-size", "+1000k"], check=True))
            row(f"{what}: find", micro(walked, count * entries), mib(mount.rss()))
            forget()
            row(f"{what}: memory after dropping the kernel's caches", mib(mount.settled()))
        for path in layers:
            os.unlink(path)


for part in PARTS or ["directory", "million", "small", "deep", "sparse", "full", "layers"]:
    print(f"\n## {part}\n", flush=True)
    globals()[part]()
