"""Workers that operate on the same folders of a root, and checks of the root.

  concurrency.py init ROOT [made]    creates the layer's part of the initial files, or with `made`
                                     the part in the upper
  concurrency.py work ROOT N STEPS   runs STEPS pseudo-random steps of worker N, seeded with N
  concurrency.py check ROOT [DONE]   checks the invariants of a root at any moment; with the number
                                     of ended workers, also checks their counts
  concurrency.py show ROOT           prints one line for each entry

Each worker counts its operations in the file `counts.N` outside of the root.
"""

import ctypes
import errno
import fcntl
import hashlib
import json
import mmap
import os
import random
import stat
import struct
import sys
from contextlib import contextmanager

LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, NOREPLACE, EXCHANGE = -100, 1, 2
DIRS = ("a", "b")
PLACES, MADE, LINKS, STAYING = 8, 6, 6, 12
TOKENS = {f"token-{dir}-{at}" for dir in DIRS for at in range(0, PLACES, 2)}
BLOCK, BLOCKS = 24 << 10, 6
RECORD = struct.Struct("<II")
WORD = struct.Struct("<Q")
WORKERS = 8


def write(path, content, mode="wb"):
    with open(path, mode, buffering=0) as file:
        file.write(content)


def init(root, made):
    """Creates the initial files: the layer's half, or with `made` the half in the upper."""
    if not made:
        for dir in DIRS:
            os.mkdir(f"{root}/{dir}")
        write(f"{root}/a/log", b"")
        write(f"{root}/b/blocks", bytes(BLOCK * BLOCKS))
        write(f"{root}/a/linked", b"linked")
        write(f"{root}/counters", bytes(WORKERS * 4096))
    for dir in DIRS:
        # Half of the places are used, by folders and files that contain their token.
        for at in range(PLACES // 2 * made, PLACES // 2 * (1 + made), 2):
            if at % 4 == 0:
                os.mkdir(f"{root}/{dir}/place-{at}")
                write(f"{root}/{dir}/place-{at}/name", f"token-{dir}-{at}".encode())
            else:
                write(f"{root}/{dir}/place-{at}", f"token-{dir}-{at}".encode())
        for at in range(STAYING):
            if (at % 2 == 0) == made:
                write(f"{root}/{dir}/staying-{at}", b"")
        if (dir == "a") == made:
            write(f"{root}/{dir}/current", WORD.pack(0) * 1000)


def same_words(content, what):
    words = set(struct.unpack(f"<{len(content) // 8}Q", content))
    assert len(words) <= 1 and len(content) % 8 == 0, f"{what} is torn: {words}"


@contextmanager
def locked(file, start, length, kind=fcntl.LOCK_EX):
    fcntl.lockf(file, kind, length, start)
    try:
        yield
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN, length, start)


def rename(old, new, flags):
    if LIBC.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


@contextmanager
def ignoring(*errors):
    """Ignores these errors, which concurrent changes by other workers can cause."""
    try:
        yield
    except OSError as error:
        if error.errno not in errors:
            raise


class Worker:
    def __init__(self, root, number):
        self.root, self.number, self.written = root, number, 0
        self.random = random.Random(number)
        self.counts = {"appended": 0, "counted": [0] * WORKERS, "names": {}}
        self.log = open(f"{root}/a/log", "ab", buffering=0)
        self.blocks = open(f"{root}/b/blocks", "r+b", buffering=0)
        self.counters = open(f"{root}/counters", "r+b", buffering=0)
        self.map = mmap.mmap(self.counters.fileno(), WORKERS * 4096)

    def somewhere(self):
        """Returns one of the two folders, or a folder that is moved itself."""
        dir = f"{self.root}/{self.random.choice(DIRS)}"
        if self.random.randrange(4) == 0:
            return f"{dir}/place-{self.random.randrange(PLACES)}"
        return dir

    def count(self, path, by):
        names = self.counts["names"]
        name = os.path.relpath(path, self.root)
        names[name] = names.get(name, 0) + by

    def write_block(self):
        at = self.random.randrange(BLOCKS) * BLOCK
        self.written += 1
        content = WORD.pack(self.number << 32 | self.written) * (BLOCK // 8)
        with locked(self.blocks, at, BLOCK):
            assert os.pwrite(self.blocks.fileno(), content, at) == BLOCK
            assert os.pread(self.blocks.fileno(), BLOCK, at) == content, "the written content"

    def read_block(self):
        at = self.random.randrange(BLOCKS) * BLOCK
        with locked(self.blocks, at, BLOCK, fcntl.LOCK_SH):
            same_words(os.pread(self.blocks.fileno(), BLOCK, at), "a block")

    def append(self):
        record = RECORD.pack(self.number, self.counts["appended"])
        assert self.log.write(record) == len(record)
        self.counts["appended"] += 1

    def add(self):
        """Increments a counter, through the mapping or with pwrite: both access the same file."""
        at = self.random.randrange(WORKERS)
        with locked(self.counters, at * 4096, 4096):
            (value,) = WORD.unpack_from(self.map, at * 4096)
            (read,) = WORD.unpack(os.pread(self.counters.fileno(), 8, at * 4096))
            assert value == read, "mapping and read differ at the same offset"
            if self.random.randrange(2):
                WORD.pack_into(self.map, at * 4096, value + 1)
            else:
                os.pwrite(self.counters.fileno(), WORD.pack(value + 1), at * 4096)
        self.counts["counted"][at] += 1

    def move(self):
        old = f"{self.somewhere()}/place-{self.random.randrange(PLACES)}"
        new = f"{self.somewhere()}/place-{self.random.randrange(PLACES)}"
        # The source is missing, the target exists, a parent is a file, or a folder would contain
        # itself.
        with ignoring(errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EINVAL):
            rename(old, new, self.random.choice((NOREPLACE, EXCHANGE)))

    def replace(self):
        new = f"{self.root}/{self.random.choice(DIRS)}/new-{self.number}"
        self.written += 1
        write(new, WORD.pack(self.number << 32 | self.written) * 1000)
        os.rename(new, f"{self.root}/{self.random.choice(DIRS)}/current")

    def read_replaced(self):
        with open(f"{self.root}/{self.random.choice(DIRS)}/current", "rb", buffering=0) as file:
            content = file.read()
        assert len(content) == 8000
        same_words(content, "a replaced file")

    def make(self):
        path = f"{self.root}/{self.random.choice(DIRS)}/made-{self.random.randrange(MADE)}"
        kind = self.random.randrange(3)
        with ignoring(errno.EEXIST):
            if kind == 0:
                os.mkdir(path)
            elif kind == 1:
                os.symlink("to", path)
            else:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            self.count(path, 1)

    def remove(self):
        path = f"{self.root}/{self.random.choice(DIRS)}/made-{self.random.randrange(MADE)}"
        with ignoring(errno.ENOENT, errno.EISDIR, errno.ENOTDIR):
            self.random.choice((os.unlink, os.rmdir))(path)
            self.count(path, -1)

    def link(self):
        path = f"{self.root}/{self.random.choice(DIRS)}/link-{self.random.randrange(LINKS)}"
        with ignoring(errno.EEXIST, errno.ENOENT):
            if self.random.randrange(2):
                os.link(f"{self.root}/a/linked", path)
                self.count(path, 1)
            else:
                os.unlink(path)
                self.count(path, -1)

    def list(self):
        names = os.listdir(f"{self.root}/{self.random.choice(DIRS)}")
        staying = [name for name in names if name.startswith("staying-")]
        assert len(staying) == len(set(staying)) == STAYING, f"listed permanent files: {staying}"

    def stat(self):
        for entry in os.scandir(self.somewhere_there()):
            with ignoring(errno.ENOENT):
                entry.stat(follow_symlinks=False)

    def somewhere_there(self):
        return f"{self.root}/{self.random.choice(DIRS)}"

    def change_attributes(self):
        path = f"{self.root}/{self.random.choice(DIRS)}/staying-{self.random.randrange(STAYING)}"
        os.chmod(path, 0o600 | self.random.randrange(0o200))
        os.utime(path, (self.written, self.written))

    def step(self):
        self.random.choice((
            self.write_block, self.read_block, self.append, self.append, self.add, self.add,
            self.move, self.move, self.move, self.replace, self.read_replaced, self.make,
            self.remove, self.link, self.list, self.stat, self.change_attributes,
        ))()


def words_of(path):
    with open(path, "rb") as file:
        return file.read()


def tokens_below(path):
    for entry in os.scandir(path):
        if entry.is_dir(follow_symlinks=False):
            yield from tokens_below(entry.path)
        elif entry.name == "name" or entry.name.startswith("place-"):
            yield words_of(entry.path).decode()


def check(root, workers=None):
    # A moved folder is identified by the token in its file `name`.
    tokens = sorted(tokens_below(root))
    assert tokens == sorted(TOKENS), f"moved tokens: {tokens}"
    log = words_of(f"{root}/a/log")
    assert len(log) % RECORD.size == 0, "a part of a record"
    following = [0] * WORKERS
    for worker, number in RECORD.iter_unpack(log):
        assert number == following[worker], f"record {number} of worker {worker}"
        following[worker] += 1
    blocks = words_of(f"{root}/b/blocks")
    for at in range(0, len(blocks), BLOCK):
        same_words(blocks[at:at + BLOCK], f"block {at // BLOCK}")
    for dir in DIRS:
        same_words(words_of(f"{root}/{dir}/current"), "a replaced file")
        staying = [name for name in os.listdir(f"{root}/{dir}") if name.startswith("staying-")]
        assert len(staying) == STAYING, f"{staying}"
    names = [f"{dir}/link-{at}" for dir in DIRS for at in range(LINKS)]
    links = sum(os.path.lexists(f"{root}/{name}") for name in names)
    assert os.stat(f"{root}/a/linked").st_nlink == links + 1, "links"
    if workers is None:
        return
    counts = []
    for worker in range(workers):
        with open(f"counts.{worker}") as file:
            counts.append(json.load(file))
    assert following == [count["appended"] for count in counts], "appended records"
    content = words_of(f"{root}/counters")
    for at in range(WORKERS):
        expected = sum(count["counted"][at] for count in counts)
        assert WORD.unpack_from(content, at * 4096) == (expected,), "lost updates"
    names += [f"{dir}/made-{at}" for dir in DIRS for at in range(MADE)]
    for name in names:
        there = sum(count["names"].get(name, 0) for count in counts)
        assert os.path.lexists(f"{root}/{name}") == there, f"{name} was made and removed"


def show(root):
    for path, dirs, files in os.walk(root):
        for name in dirs + files:
            full = os.path.join(path, name)
            what = os.lstat(full)
            line = [os.path.relpath(full, root), oct(what.st_mode)]
            if stat.S_ISREG(what.st_mode):
                line += [str(what.st_nlink), hashlib.sha256(words_of(full)).hexdigest()]
            if stat.S_ISLNK(what.st_mode):
                line.append(os.readlink(full))
            yield " ".join(line)


def main():
    task, root, *rest = sys.argv[1:]
    if task == "init":
        init(root, made=bool(rest))
    elif task == "work":
        worker = Worker(root, int(rest[0]))
        for _ in range(int(rest[1])):
            worker.step()
        worker.map.flush()
        with open(f"counts.{rest[0]}", "w") as file:
            json.dump(worker.counts, file)
    elif task == "check":
        check(root, *map(int, rest))
    elif task == "show":
        print("\n".join(sorted(show(root))))


main()
