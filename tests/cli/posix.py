"""The observable behaviour of a file system, in small named cases.

`posix.py init DIR` creates a folder with the initial files for each case.
`posix.py check DIR` runs each case in its folder and prints `case: outcome`.

An outcome consists of errno names and values that are the same in each run, so that two file
systems can be compared line by line. The script must run as root, or as root of a user namespace
that maps the ids 1000 and 1001.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import signal
import socket
import stat
import struct
import sys
import time

USER, STRANGER = 1000, 1001
OLD = 1_000_000_000
CONTENT = bytes(i * 7 % 251 for i in range(10_000))
LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
CASES = []


def case(function):
    CASES.append(function)
    return function


# The initial files of every case.


def put(path, content, mode=0o644, uid=0, gid=0):
    with open(path, "wb") as file:
        file.write(content)
    os.chown(path, uid, gid)
    os.chmod(path, mode)


def folder(path, mode=0o755, uid=0, gid=0):
    os.mkdir(path)
    os.chown(path, uid, gid)
    os.chmod(path, mode)


def create_files(root):
    folder(root)
    os.chdir(root)
    put("file", CONTENT)
    put("other", b"other")
    put("blank", b"")
    put("setuid", b"setuid", 0o4777)
    put("setgid", b"setgid", 0o2777)
    put("locking", b"setgid without x", 0o2767)
    put("secret", b"secret", 0o600)
    put("owned", b"owned", 0o644, USER, USER)
    put("shared", b"shared", 0o664, 0, USER)
    put("one", b"linked")
    os.link("one", "two")
    folder("dir")
    folder("dir/sub")
    put("dir/sub/leaf", b"leaf")
    put("dir/inner", b"inner")
    folder("empty")
    folder("bare")
    folder("many")
    for i in range(300):
        put(f"many/{i}", b"")
    folder("sticky", 0o1777)
    put("sticky/root", b"root", 0o666)
    put("sticky/user", b"user", 0o644, USER, USER)
    folder("sticky/folder", 0o777)
    folder("handing", 0o2777, 0, STRANGER)
    folder("closed", 0o700)
    put("closed/inner", b"inner", 0o644)
    folder("home", 0o755, USER, USER)
    put("home/file", b"home", 0o644, USER, USER)
    folder("home/roots", 0o755)
    folder("home/own", 0o755, USER, USER)
    for link, target in [
        ("link", "file"),
        ("dangling", "nothing"),
        ("loop", "loop"),
        ("ring", "gnir"),
        ("gnir", "ring"),
        ("door", "dir"),
    ]:
        os.symlink(target, link)
    os.mkfifo("pipe")
    for at, folders, files in os.walk(".", topdown=False):
        for name in files + folders + ["."]:
            os.utime(os.path.join(at, name), (OLD, OLD), follow_symlinks=False)


# Outcomes.


def attempt(action, *args, **named):
    """Returns the result, `ok` for None, or the name of the errno."""
    try:
        value = action(*args, **named)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    return "ok" if value is None else value


def child(action):
    """Runs `action` in a child process; returns its outcome."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            os.write(writer, str(attempt(action)).encode())
            os._exit(0)
        except BaseException as error:
            os.write(writer, repr(error).encode())
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as result:
        text = result.read().decode()
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return text


def by(uid, action, *args, groups=()):
    """Runs `action` as an unprivileged user; returns its outcome."""

    def run():
        os.setgroups(list(groups))
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        return action(*args)

    return child(run)


def opened(path, flags=os.O_RDONLY, mode=0o644):
    os.close(os.open(path, flags, mode))


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, content, flags=os.O_WRONLY | os.O_CREAT, mode=0o644):
    fd = os.open(path, flags, mode)
    try:
        return os.write(fd, content)
    finally:
        os.close(fd)


def mode(path):
    return oct(os.lstat(path).st_mode & 0o7777)


def owner(path):
    found = os.lstat(path)
    return f"{found.st_uid}:{found.st_gid}:{oct(found.st_mode & 0o7777)}"


def nlink(what):
    return os.stat(what, **({} if isinstance(what, int) else {"follow_symlinks": False})).st_nlink


def ino(path):
    return os.lstat(path).st_ino


def names(path="."):
    return " ".join(sorted(os.listdir(path)))


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return None if result == 0 else result


def link_open(fd, path):
    """Links an open file to a path."""
    at, follow = AT_FDCWD, 0x400
    return checked(LIBC.linkat(at, b"/proc/self/fd/%d" % fd, at, os.fsencode(path), follow))


NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


def rename2(old, new, flags):
    at = AT_FDCWD
    return checked(LIBC.renameat2(at, os.fsencode(old), at, os.fsencode(new), flags))


KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE = 1, 2, 8, 16


def fallocate(fd, how, offset, length):
    offset, length = ctypes.c_int64(offset), ctypes.c_int64(length)
    return checked(LIBC.fallocate(fd, how, offset, length))


def changed(action, *what):
    """Returns the times that `action` changes, for each of `what`: m for mtime, c for ctime. An
    entry of `what` is a path, `before>after` if it is renamed, or a descriptor."""

    def times(one):
        found = os.stat(one) if isinstance(one, int) else os.lstat(one)
        return found.st_mtime_ns, found.st_ctime_ns

    def at(one, place):
        return one if isinstance(one, int) else one.split(">")[place]

    before = [times(at(one, 0)) for one in what]
    time.sleep(0.015)
    result = attempt(action)
    after = [times(at(one, -1)) for one in what]
    letters = [
        "".join(letter for letter, b, a in zip("mc", old, new) if a > b) or "-"
        for old, new in zip(before, after)
    ]
    return " ".join(([] if result == "ok" else [str(result)]) + letters)


# Permissions.


@case
def others_cannot_open_private_files():
    return [
        by(USER, opened, "secret"),
        by(USER, opened, "file"),
        by(USER, opened, "file", os.O_WRONLY),
        by(USER, opened, "file", os.O_RDONLY | os.O_TRUNC),
        by(USER, opened, "secret", os.O_PATH),
    ]


@case
def others_cannot_search_a_closed_folder():
    return [by(USER, os.stat, "closed/inner"), by(USER, os.listdir, "closed"), by(USER, os.chdir, "closed")]


@case
def others_cannot_change_a_folder():
    return [
        by(USER, opened, "new", os.O_CREAT),
        by(USER, os.mkdir, "new"),
        by(USER, os.symlink, "x", "new"),
        by(USER, os.mkfifo, "new"),
        by(USER, os.link, "owned", "new"),
        by(USER, os.unlink, "owned"),
        by(USER, os.rmdir, "empty"),
        by(USER, os.rename, "owned", "new"),
        by(USER, os.rename, "owned", "home/owned"),
    ]


@case
def others_cannot_change_attributes():
    return [
        by(USER, os.chmod, "file", 0o777),
        by(USER, os.chown, "file", USER, USER),
        by(USER, os.utime, "file", (1, 1)),
        by(USER, os.utime, "file"),
        by(USER, os.truncate, "file", 0),
        by(USER, os.utime, "setuid"),
    ]


@case
def owners_change_attributes_but_not_owners():
    return [
        by(USER, os.chmod, "owned", 0o600),
        by(USER, os.chown, "owned", STRANGER, -1),
        by(USER, os.chown, "owned", -1, STRANGER),
        by(USER, os.chown, "owned", -1, STRANGER, groups=[STRANGER]),
        by(USER, os.utime, "owned", (1, 1)),
        owner("owned"),
    ]


@case
def groups_have_their_permissions():
    return [
        by(USER, opened, "shared", os.O_WRONLY),
        by(STRANGER, opened, "shared", os.O_WRONLY),
        by(STRANGER, lambda: opened("shared", os.O_WRONLY), groups=[USER]),
    ]


@case
def access_agrees_with_open():
    def all_of(path):
        return "".join(letter for letter, how in [("r", 4), ("w", 2), ("x", 1)] if os.access(path, how))

    return [by(uid, lambda p=p: all_of(p) or "-") for uid in (USER, STRANGER) for p in ["file", "secret", "setuid", "shared", "closed"]] + [all_of("file"), all_of("secret"), all_of("closed")]


@case
def execution_requires_an_execute_bit():
    return child(lambda: os.execv("file", ["file"])), by(USER, lambda: os.execv("secret", ["secret"]))


@case
def chmod_outside_the_group_drops_setgid():
    os.chown("owned", USER, STRANGER)
    return by(USER, os.chmod, "owned", 0o2755), mode("owned"), by(USER, os.chmod, "owned", 0o4755), mode("owned")


@case
def moving_a_foreign_folder_to_another_parent():
    return by(USER, os.rename, "home/roots", "home/own/roots"), by(USER, os.rename, "home/roots", "home/same")


@case
def permission_changes_apply_at_once():
    before = by(USER, opened, "file", os.O_WRONLY)
    os.chmod("file", 0o666)
    between = by(USER, opened, "file", os.O_WRONLY)
    os.chmod("file", 0)
    return before, between, by(USER, opened, "file"), attempt(opened, "file")


# Sticky folders.


@case
def sticky_folders_protect_entries_of_others():
    return [
        by(USER, os.unlink, "sticky/root"),
        by(USER, os.rename, "sticky/root", "sticky/new"),
        by(USER, os.rename, "sticky/user", "sticky/root"),
        by(USER, os.rmdir, "sticky/folder"),
        by(USER, rename2, "sticky/user", "sticky/root", EXCHANGE),
        by(STRANGER, os.unlink, "sticky/user"),
        names("sticky"),
    ]


@case
def sticky_folders_allow_own_entries():
    return by(USER, os.rename, "sticky/user", "sticky/new"), by(USER, os.unlink, "sticky/new"), attempt(os.unlink, "sticky/root"), names("sticky")


# Setgid folders.


@case
def setgid_folders_pass_on_their_group():
    os.umask(0)
    os.close(os.open("handing/file", os.O_CREAT | os.O_WRONLY, 0o644))
    os.mkdir("handing/folder", 0o755)
    os.symlink("x", "handing/link")
    os.mkfifo("handing/pipe", 0o600)
    os.mkdir("handing/folder/deeper", 0o700)
    result = [owner("handing/" + name) for name in ["file", "folder", "link", "pipe", "folder/deeper"]]
    os.umask(0o022)
    return result


@case
def setgid_is_not_gained_in_a_setgid_folder():
    def make():
        os.umask(0)
        os.close(os.open("handing/file", os.O_CREAT, 0o2775))
        os.mknod("handing/node", 0o2775 | stat.S_IFREG)
        os.close(os.open("handing/locking", os.O_CREAT, 0o2765))

    return by(USER, make), [owner("handing/" + name) for name in ["file", "node", "locking"]]


@case
def modes_are_those_given_without_the_umask():
    os.umask(0)
    os.close(os.open("new", os.O_CREAT, 0o7777))
    os.mkdir("folder", 0o1777)
    os.mkdir("special", 0o7777)
    os.umask(0o027)
    os.mkdir("masked", 0o777)
    os.close(os.open("hidden", os.O_CREAT, 0o666))
    os.mkfifo("masked/pipe")
    os.umask(0o022)
    return [mode(path) for path in ["new", "folder", "special", "masked", "hidden", "masked/pipe"]]


# Setuid and setgid of files.


def after_each(action):
    """Returns the modes of setuid and setgid files after `action` by a user."""
    return [(by(USER, action, path), mode(path)) for path in ["setuid", "setgid"]]


@case
def writing_clears_setuid():
    return after_each(lambda path: write(path, b"x", os.O_WRONLY))


@case
def truncating_clears_setuid():
    return after_each(lambda path: os.truncate(path, 2))


@case
def opening_to_truncate_clears_setuid():
    return after_each(lambda path: opened(path, os.O_WRONLY | os.O_TRUNC))


@case
def allocating_clears_setuid():
    def allocate(path):
        fd = os.open(path, os.O_WRONLY)
        os.posix_fallocate(fd, 0, 100)

    return after_each(allocate)


@case
def copying_into_clears_setuid():
    def copy(path):
        return os.copy_file_range(os.open("file", os.O_RDONLY), os.open(path, os.O_WRONLY), 3)

    return after_each(copy)


@case
def writing_clears_setgid_where_the_group_may_not_execute():
    return by(USER, write, "locking", b"x", os.O_WRONLY), mode("locking")


@case
def truncating_clears_setgid_where_the_group_may_not_execute():
    return by(USER, os.truncate, "locking", 1), mode("locking")


@case
def allocating_clears_setgid_where_the_group_may_not_execute():
    def allocate():
        os.posix_fallocate(os.open("locking", os.O_WRONLY), 0, 100)

    return by(USER, allocate), mode("locking")


@case
def setgid_where_the_group_may_not_execute_is_kept_by_the_group():
    os.chown("locking", 0, USER)
    os.chmod("locking", 0o2767)
    results = [by(USER, write, "locking", b"x", os.O_WRONLY), mode("locking")]
    return results + [by(USER, os.truncate, "locking", 1), mode("locking")]


@case
def writing_as_root_keeps_setuid():
    write("setuid", b"x", os.O_WRONLY)
    os.truncate("setgid", 1)
    return mode("setuid"), mode("setgid")


@case
def changing_the_owner_clears_setuid():
    for path in ["setuid", "setgid", "locking"]:
        os.chown(path, 0, 0)
    return mode("setuid"), mode("setgid"), mode("locking")


@case
def changing_the_owner_to_itself_clears_setuid():
    for path in ["setuid", "setgid"]:
        os.chown(path, -1, -1)
    return mode("setuid"), mode("setgid")


@case
def changing_the_owner_keeps_the_bits_of_folders():
    os.chown("handing", USER, USER)
    os.chown("sticky", USER, USER)
    return owner("handing"), owner("sticky")


@case
def linking_and_renaming_keep_setuid():
    os.link("setuid", "new")
    os.rename("setgid", "newer")
    return mode("new"), mode("newer")


# Names and paths.


@case
def dangling_and_circular_links():
    return [
        attempt(os.stat, "loop"),
        attempt(opened, "ring"),
        attempt(opened, "link", os.O_NOFOLLOW),
        attempt(os.stat, "dangling"),
        attempt(opened, "door", os.O_NOFOLLOW | os.O_DIRECTORY),
        attempt(os.chdir, "loop"),
        attempt(os.mkdir, "loop/x"),
        attempt(os.rename, "loop/x", "y"),
    ]


@case
def at_most_40_links_are_followed():
    os.symlink("file", "l0")
    for i in range(1, 42):
        os.symlink(f"l{i - 1}", f"l{i}")
    return attempt(opened, "l39"), attempt(opened, "l40")


@case
def names_have_at_most_255_bytes():
    long, longer = "n" * 255, "n" * 256
    return [
        attempt(opened, long, os.O_CREAT),
        attempt(os.rename, long, "m" * 255),
        attempt(os.link, "m" * 255, long),
        attempt(os.unlink, long),
        attempt(os.stat, longer),
        attempt(opened, longer, os.O_CREAT),
        attempt(os.mkdir, longer),
        attempt(os.rename, "file", longer),
        attempt(os.rename, longer, "file"),
        attempt(os.link, "file", longer),
        attempt(os.symlink, "x", longer),
        attempt(os.unlink, longer),
        attempt(os.rmdir, longer),
        attempt(os.stat, "n" * 2000),
        attempt(os.statvfs, ".") and os.statvfs(".").f_namemax,
    ]


@case
def paths_have_at_most_4095_bytes():
    path = "./" * 2045 + "file"
    return attempt(opened, path), attempt(opened, "." + "/" * (4095 - 5) + "file"), attempt(opened, "." + "/" * (4096 - 5) + "file")


@case
def link_targets_have_at_most_4095_bytes():
    return attempt(os.symlink, "t" * 4095, "new"), len(os.readlink("new")), os.lstat("new").st_size, attempt(os.symlink, "t" * 4096, "newer"), attempt(os.symlink, "", "newest")


@case
def names_of_any_bytes():
    odd = [b"\xff\xfe", b"new\nline", b" ", b"-rf", b"...", b"\x01", "\u00e4\u00f6".encode()]
    for name in odd:
        os.mkdir(b"empty/" + name)
    return sorted(os.listdir(b"empty")) == sorted(odd)


@case
def paths_through_other_objects_than_folders():
    return [
        attempt(os.stat, "file/x"),
        attempt(os.stat, "link/x"),
        attempt(os.stat, "file/"),
        attempt(os.stat, "file/."),
        attempt(os.stat, "dangling/x"),
        attempt(os.stat, ""),
        attempt(opened, "new/", os.O_CREAT),
        attempt(os.mkdir, "new/"),
        attempt(os.rename, "file", "newer/"),
        attempt(os.rename, "empty", "newer/"),
        attempt(os.unlink, "link/"),
        attempt(os.rmdir, "door/"),
        attempt(os.symlink, "x", "newest/"),
        attempt(os.listdir, "file"),
    ]


@case
def opening_as_another_type():
    return [
        attempt(opened, "dir", os.O_WRONLY),
        attempt(opened, "dir", os.O_RDWR),
        attempt(opened, "dir", os.O_CREAT),
        attempt(opened, "dir", os.O_RDONLY | os.O_TRUNC),
        attempt(opened, "file", os.O_DIRECTORY),
        attempt(opened, "pipe", os.O_WRONLY | os.O_NONBLOCK),
        attempt(opened, "nothing"),
        attempt(opened, "dir/nothing/new", os.O_CREAT),
        attempt(lambda: os.read(os.open("dir", os.O_RDONLY), 1)),
        attempt(lambda: os.write(os.open("file", os.O_RDONLY), b"x")),
        attempt(lambda: os.read(os.open("file", os.O_WRONLY), 1)),
        attempt(os.truncate, "dir", 0),
        attempt(os.truncate, "file", -1),
        attempt(os.readlink, "file"),
        attempt(os.readlink, "dir"),
    ]


@case
def creating_existing_names():
    exclusive = os.O_CREAT | os.O_EXCL
    return [
        attempt(opened, "file", exclusive),
        attempt(opened, "dangling", exclusive),
        attempt(opened, "dir", exclusive),
        attempt(os.mkdir, "file"),
        attempt(os.mkdir, "dir"),
        attempt(os.mkdir, "dangling"),
        attempt(os.mkdir, "."),
        attempt(os.mkdir, "dir/.."),
        attempt(os.symlink, "x", "file"),
        attempt(os.link, "file", "other"),
        attempt(os.link, "file", "dangling"),
        attempt(os.mkfifo, "pipe"),
        attempt(opened, "dangling", os.O_CREAT),
        names("."),
    ]


# Folders.


@case
def removing_folders():
    return [
        attempt(os.rmdir, "dir"),
        attempt(os.rmdir, "."),
        attempt(os.rmdir, "dir/sub/.."),
        attempt(os.rmdir, "empty/."),
        attempt(os.rmdir, "file"),
        attempt(os.rmdir, "door"),
        attempt(os.rmdir, "nothing"),
        attempt(os.unlink, "dir"),
        attempt(os.unlink, "nothing"),
        attempt(os.rmdir, "empty"),
        attempt(os.rmdir, "empty"),
        attempt(os.stat, "empty"),
    ]


@case
def an_emptied_folder_is_empty():
    for name in os.listdir("many"):
        os.unlink("many/" + name)
    listed = os.listdir("many")
    return listed, attempt(os.rmdir, "many"), attempt(os.mkdir, "many"), os.listdir("many"), nlink("many")


@case
def renaming_over_existing_names():
    return [
        attempt(os.rename, "empty", "dir"),
        attempt(os.rename, "file", "dir"),
        attempt(os.rename, "dir", "file"),
        attempt(os.rename, "dir", "dir/sub/new"),
        attempt(os.rename, "dir", "dir"),
        attempt(os.rename, "dir/sub", "dir"),
        attempt(os.rename, "dir/.", "new"),
        attempt(os.rename, "dir/..", "new"),
        attempt(os.rename, "file", "dir/sub/."),
        attempt(os.rename, "nothing", "new"),
        attempt(os.rename, "file", "nothing/new"),
        attempt(os.rename, "file", "other/new"),
        attempt(os.rename, "dir", "empty"),
        names("empty"),
        attempt(os.rename, "file", "other"),
        read("other") == CONTENT,
        attempt(os.rename, "link", "one"),
        os.readlink("one"),
        names("."),
    ]


@case
def renaming_one_name_to_another_of_the_same_file():
    return attempt(os.rename, "one", "two"), names("."), nlink("one")


@case
def renaming_with_flags():
    inodes = ino("file"), ino("dir")
    return [
        attempt(rename2, "file", "other", NOREPLACE),
        attempt(rename2, "file", "dangling", NOREPLACE),
        attempt(rename2, "file", "new", NOREPLACE),
        attempt(rename2, "new", "nothing", EXCHANGE),
        attempt(rename2, "nothing", "new", EXCHANGE),
        attempt(rename2, "dir", "dir/sub", EXCHANGE),
        attempt(rename2, "dir/sub", "dir", EXCHANGE),
        attempt(rename2, "new", "dir", EXCHANGE),
        (ino("dir"), ino("new")) == inodes,
        read("dir") == CONTENT,
        names("new"),
        attempt(rename2, "one", "two", EXCHANGE),
        attempt(rename2, "new", "other", EXCHANGE | NOREPLACE),
        attempt(rename2, "new", "other", 64),
    ]


@case
def renaming_to_leave_a_whiteout():
    return attempt(rename2, "file", "new", WHITEOUT)


@case
def the_parent_of_a_renamed_folder():
    os.chdir("dir/sub")
    os.rename("../../dir/sub", "../../empty/sub")
    first = ino("..") == ino("../../empty"), os.path.basename(os.getcwd())
    os.rename("../../empty", "../../bare")
    second = os.getcwd().split("/")[-2:], names("."), ino("..") == ino("../../bare")
    fd = os.open("..", os.O_RDONLY | os.O_DIRECTORY)
    listed = [name for name in os.listdir(fd)]
    return first, second, listed


@case
def a_renamed_folder_keeps_its_content():
    fd = os.open("dir/sub/leaf", os.O_RDWR)
    os.rename("dir", "moved")
    os.write(fd, b"LEAF")
    write("moved/sub/new", b"new")
    result = read("moved/sub/leaf"), names("moved"), names("moved/sub"), attempt(os.stat, "dir/inner")
    os.mkdir("dir")
    return result, names("dir"), attempt(os.stat, "dir/inner")


@case
def a_mount_point_is_busy():
    mounted = attempt(lambda: checked(LIBC.mount(b"none", b"empty", b"tmpfs", 0, None)))
    result = [
        attempt(os.rmdir, "empty"),
        attempt(os.rename, "empty", "new"),
        attempt(os.rename, "bare", "empty"),
        attempt(os.rename, "file", "empty/file"),
        attempt(os.link, "file", "empty/file"),
    ]
    attempt(lambda: checked(LIBC.umount2(b"empty", 2)))
    return mounted, result, attempt(os.rmdir, "empty")


@case
def other_file_systems_are_not_reached_by_names():
    return attempt(os.rename, "file", "/dev/posix"), attempt(os.link, "file", "/dev/posix"), attempt(os.rename, "/proc/self/status", "new"), attempt(os.rename, "dir", "/dev/posix")


@case
def the_working_folder_removed():
    os.chdir("empty")
    os.rmdir("../empty")
    return [
        attempt(os.getcwd),
        attempt(opened, "new", os.O_CREAT),
        attempt(os.mkdir, "new"),
        attempt(os.listdir, "."),
        attempt(os.stat, "new"),
        attempt(os.link, "../file", "new"),
        attempt(os.rename, "../file", "new"),
        nlink("."),
        attempt(os.chdir, ".."),
        attempt(os.stat, "file") != "ENOENT",
    ]


# Links.


@case
def hard_links_are_one_file():
    write("one", b"LINKED and longer")
    os.chmod("two", 0o600)
    result = read("two"), mode("one"), ino("one") == ino("two"), nlink("one")
    os.unlink("one")
    left = nlink("two"), read("two")
    os.link("two", "dir/three")
    os.rename("two", "four")
    return result, left, nlink("four"), read("dir/three")


@case
def a_thousand_links():
    for i in range(1000):
        os.link("file", f"empty/{i}")
    most = nlink("file")
    for i in range(500):
        os.unlink(f"empty/{i}")
    os.unlink("file")
    return most, nlink("empty/999"), read("empty/999") == CONTENT


@case
def invalid_hard_links():
    fd = os.open("other", os.O_RDONLY)
    os.unlink("other")
    return [
        attempt(os.link, "dir", "new"),
        attempt(os.link, "nothing", "new"),
        attempt(link_open, fd, "new"),
        attempt(os.link, "link", "symbolic", follow_symlinks=False),
        nlink("link"),
        attempt(os.link, "pipe", "dir/pipe"),
        nlink("pipe"),
        by(USER, os.link, "secret", "home/new"),
    ]


@case
def an_open_file_given_a_name_through_proc():
    fd = os.open("file", os.O_RDONLY)
    link_open(fd, "new")
    return ino("new") == ino("file"), nlink(fd)


# Inode numbers.


@case
def inode_numbers_are_stable():
    found = []
    for path, change in [
        ("file", lambda p: write(p, b"x")),
        ("other", lambda p: os.chmod(p, 0)),
        ("dir", lambda p: os.mkdir(p + "/new")),
        ("link", lambda p: os.chown(p, 1, 1, follow_symlinks=False)),
        ("two", lambda p: os.truncate(p, 0)),
        ("pipe", lambda p: os.utime(p)),
    ]:
        before = ino(path)
        change(path)
        os.rename(path, path + ".new")
        found.append(ino(path + ".new") == before)
    return found


@case
def inode_numbers_are_unique():
    all_of = [os.path.join(at, name) for at, folders, files in os.walk(".") for name in folders + files]
    numbers = {}
    for path in all_of:
        numbers.setdefault(ino(path), []).append(path)
    return sorted(sorted(paths) for paths in numbers.values() if len(paths) > 1)


@case
def a_folder_counts_its_subfolders():
    start = nlink("."), nlink("dir"), nlink("empty"), nlink("many")
    fd = os.open("bare", os.O_RDONLY)
    os.mkdir("dir/more")
    made = nlink("dir")
    os.rename("dir/sub", "empty/sub")
    moved = nlink("dir"), nlink("empty")
    os.rename("empty/sub", "bare")
    replaced = nlink("empty"), nlink("."), nlink(fd)
    rename2("dir/more", "dir/inner", EXCHANGE)
    rename2("dir/more", "bare", EXCHANGE)
    exchanged = nlink("dir"), nlink(".")
    os.rmdir("empty")
    os.rename("home/own", "home/roots")
    return start, made, moved, replaced, exchanged, nlink("."), nlink("home")


@case
def a_removed_object_has_no_links():
    fds = [os.open(path, os.O_RDONLY) for path in ["file", "empty", "other", "bare", "one"]]
    os.unlink("file")
    os.rmdir("empty")
    os.rename("owned", "other")
    os.rename("dir", "bare")
    os.unlink("one")
    return [nlink(fd) for fd in fds]


# Times.


@case
def times_after_creating():
    return [
        changed(lambda: opened("dir/a", os.O_CREAT), "dir", "."),
        changed(lambda: os.mkdir("dir/b"), "dir"),
        changed(lambda: os.symlink("x", "dir/c"), "dir"),
        changed(lambda: os.mkfifo("dir/d"), "dir"),
        changed(lambda: os.link("file", "dir/e"), "dir", "file", "."),
        changed(lambda: opened("dir/a", os.O_CREAT), "dir", "dir/a"),
        changed(lambda: os.mkdir("dir/a"), "dir", "dir/a"),
    ]


@case
def times_after_removing():
    one = os.open("one", os.O_RDONLY)
    empty = os.open("empty", os.O_RDONLY)
    return [
        changed(lambda: os.unlink("dir/inner"), "dir", "."),
        changed(lambda: os.unlink("one"), ".", "two", one),
        changed(lambda: os.rmdir("empty"), ".", empty),
        changed(lambda: os.rmdir("dir"), ".", "dir"),
    ]


@case
def times_after_renaming():
    other = os.open("other", os.O_RDONLY)
    return [
        changed(lambda: os.rename("file", "file.new"), ".", "file>file.new"),
        changed(lambda: os.rename("dir/inner", "empty/inner"), "dir", "empty", ".", "dir/inner>empty/inner"),
        changed(lambda: os.rename("dir", "empty/dir"), ".", "empty", "dir>empty/dir", "dir/sub>empty/dir/sub"),
        changed(lambda: os.rename("secret", "other"), ".", "secret>other", other),
        changed(lambda: os.rename("one", "two"), ".", "one"),
        changed(lambda: rename2("setuid", "home/file", EXCHANGE), ".", "home", "setuid>home/file", "home/file>setuid"),
        changed(lambda: rename2("setgid", "locking", NOREPLACE), ".", "setgid"),
    ]


@case
def times_after_writing():
    fd = os.open("file", os.O_RDWR)
    return [
        changed(lambda: os.pwrite(fd, b"x", 0) and None, "file", "."),
        changed(lambda: os.pwrite(fd, b"", 0) and None, "file"),
        changed(lambda: os.pread(fd, 10, 0) and None, "file"),
        changed(lambda: os.ftruncate(fd, 5), "file"),
        changed(lambda: os.ftruncate(fd, 5), "file"),
        changed(lambda: os.truncate("file", 4), "file"),
        changed(lambda: opened("file", os.O_WRONLY | os.O_TRUNC), "file"),
        changed(lambda: opened("blank", os.O_WRONLY | os.O_TRUNC), "blank"),
        changed(lambda: os.posix_fallocate(fd, 0, 100), "file"),
        changed(lambda: fallocate(fd, KEEP_SIZE, 0, 100), "file"),
        changed(lambda: fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, 100), "file"),
        changed(lambda: os.close(os.dup(fd)), "file"),
    ]


@case
def times_after_truncating_to_the_same_size():
    return changed(lambda: os.truncate("file", len(CONTENT)), "file")


@case
def times_after_attribute_changes():
    return [
        changed(lambda: os.chmod("file", 0o600), "file", "."),
        changed(lambda: os.chmod("file", 0o600), "file"),
        changed(lambda: os.chown("file", 1, 1), "file"),
        changed(lambda: os.chown("file", -1, -1), "file"),
        changed(lambda: os.chown("link", 1, 1, follow_symlinks=False), "link", "file"),
        changed(lambda: os.utime("file"), "file"),
        changed(lambda: os.utime("dir", (OLD, OLD)), "dir"),
        changed(lambda: utimens("file", (0, OMIT), (0, OMIT)), "file"),
        changed(lambda: utimens("file", (0, NOW), (0, OMIT)), "file"),
    ]


@case
def times_of_a_shared_mapping():
    fd = os.open("file", os.O_RDWR)
    area = mmap.mmap(fd, 0)

    def touch():
        area[0] = 1
        area.flush()

    return changed(touch, "file")


NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2


def utimens(path, atime, mtime):
    pairs = (ctypes.c_int64 * 4)(*atime, *mtime)
    return checked(LIBC.utimensat(AT_FDCWD, os.fsencode(path), pairs, 0))


@case
def times_are_kept_to_the_nanosecond():
    found = []
    for secs, nanos in [
        (OLD, 123456789),
        (-1, 999999999),
        (-1, 1),
        (-5, 0),
        (0, 0),
        (1 << 33, 1),
        (-(1 << 40), 5),
        (1 << 55, 999999999),
        ((1 << 63) - 1, 0),
        (1 - (1 << 63), 0),
        (1, 1_000_000_000),
    ]:
        result = attempt(utimens, "file", (secs, nanos), (secs, nanos))
        seen = os.stat("file")
        found.append((result, seen.st_atime_ns, seen.st_mtime_ns))
    return found


@case
def times_of_links_are_their_own():
    os.utime("link", (1, 2), follow_symlinks=False)
    return int(os.lstat("link").st_mtime), int(os.stat("link").st_mtime), attempt(os.utime, "dangling")


@case
def reading_updates_the_access_time():
    os.utime("file", (OLD, OLD))
    read("file")
    first = os.stat("file").st_atime_ns > OLD * 10**9
    os.utime("dir", (OLD, OLD))
    os.listdir("dir")
    return first, os.stat("dir").st_atime_ns > OLD * 10**9


@case
def new_objects_have_the_current_time():
    # Clocks of file systems advance in steps of up to 10 ms.
    before = time.time_ns() - 10**7
    opened("new", os.O_CREAT)
    os.mkdir("folder")
    after = time.time_ns()
    found = os.stat("new"), os.stat("folder")
    times = [t for s in found for t in (s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns)]
    return all(before <= t <= after for t in times)


# Opening, reading, writing.


@case
def appending():
    a = os.open("file", os.O_WRONLY | os.O_APPEND)
    b = os.open("file", os.O_RDWR | os.O_APPEND)
    os.write(a, b"one")
    os.write(b, b"two")
    place = os.lseek(b, 0, os.SEEK_CUR)
    os.lseek(a, 0, os.SEEK_SET)
    os.write(a, b"three")
    os.pwrite(a, b"four", 0)
    os.truncate("file", 10)
    os.write(a, b"five")
    return place, read("file")[:20], os.stat("file").st_size, child(lambda: os.write(b, b"six")), read("file")[10:]


@case
def appending_by_many_processes():
    def run(letter):
        fd = os.open("blank", os.O_WRONLY | os.O_APPEND)
        for _ in range(200):
            os.write(fd, letter * 10)

    pids = []
    for letter in [b"a", b"b", b"c"]:
        pid = os.fork()
        if pid == 0:
            run(letter)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    content = read("blank")
    pieces = {content[i : i + 10] for i in range(0, len(content), 10)}
    return len(content), sorted(pieces)


@case
def truncating_by_opening():
    reader = os.open("file", os.O_RDONLY)
    opened("file", os.O_WRONLY | os.O_TRUNC)
    result = os.read(reader, 10), os.fstat(reader).st_size
    write("file", b"new")
    write("link", b"", os.O_WRONLY | os.O_TRUNC)
    write("link", b"via")
    opened("other", os.O_RDONLY | os.O_TRUNC)
    return result, os.pread(reader, 10, 0), os.stat("other").st_size


@case
def truncating_and_growing():
    os.truncate("file", 5000)
    os.truncate("file", 9000)
    content = read("file")
    return content[:5000] == CONTENT[:5000], content[5000:] == bytes(4000)


@case
def writing_beyond_the_end():
    fd = os.open("file", os.O_RDWR)
    os.pwrite(fd, b"end", 100_000)
    content = read("file")
    return len(content), content[:10_000] == CONTENT, content[10_000:] == bytes(90_000) + b"end", os.lseek(fd, 0, os.SEEK_END)


@case
def very_large_files():
    fd = os.open("new", os.O_RDWR | os.O_CREAT)
    most = (1 << 63) - 1
    result = [
        attempt(os.ftruncate, fd, 1 << 42),
        attempt(os.pwrite, fd, b"x", (1 << 42) + 5),
        os.fstat(fd).st_size,
        attempt(os.ftruncate, fd, most),
        attempt(os.pwrite, fd, b"x", most),
        attempt(os.lseek, fd, -1, os.SEEK_SET),
        attempt(os.lseek, fd, most, os.SEEK_SET),
        attempt(os.pread, fd, 1, 1 << 50),
    ]
    # The file is sealed later, and some formats limit the size.
    os.ftruncate(fd, 0)
    return result


@case
def limit_of_file_size():
    def run():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        fd = os.open("file", os.O_RDWR)
        return [attempt(os.pwrite, fd, b"x" * 100, 19_990), attempt(os.pwrite, fd, b"x", 20_000), attempt(os.ftruncate, fd, 20_001), attempt(os.posix_fallocate, fd, 0, 30_000)]

    def killed():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        os.truncate("file", 20_001)

    return child(run), child(killed)


@case
def vectored_reads_and_writes():
    fd = os.open("new", os.O_RDWR | os.O_CREAT)
    result = os.writev(fd, [b"a" * 5000, b"", b"b" * 5000]), os.preadv(fd, [bytearray(3), bytearray(4)], 9_996)
    return result, os.pread(fd, 4, 4998), attempt(os.pread, fd, 5, 20_000), attempt(os.read, fd, 1)


@case
def direct_reads_and_writes():
    fd = os.open("file", os.O_RDWR | os.O_DIRECT)
    area = mmap.mmap(-1, 4096)
    result = attempt(os.preadv, fd, [area], 4096), area[:] == CONTENT[4096:8192]
    area[:] = b"d" * 4096
    return result, attempt(os.pwritev, fd, [area], 0), read("file")[:4096] == b"d" * 4096, read("file")[4096:] == CONTENT[4096:]


@case
def asynchronous_direct_writes():
    # A concurrent cached read must not leave old data in the cache.
    here = os.uname().machine == "x86_64"
    io_setup, io_destroy, io_getevents, io_submit = range(206, 210) if here else (0, 1, 4, 2)
    size, rounds = 1 << 18, 100
    fd, cached = os.open("new", os.O_RDWR | os.O_CREAT | os.O_DIRECT), os.open("new", os.O_RDONLY)
    os.ftruncate(fd, size)
    area = mmap.mmap(-1, size)
    context = ctypes.c_ulong()
    if LIBC.syscall(io_setup, 1, ctypes.byref(context)) != 0:
        return "no asynchronous requests"
    reader = os.fork()
    if reader == 0:
        while os.getppid() != 1:
            os.pread(cached, size, 0)
        os._exit(0)
    stale = 0
    for i in range(1, rounds + 1):
        area[:] = bytes([i]) * size
        start = ctypes.addressof(ctypes.c_char.from_buffer(area))
        request = struct.pack("<QIiHhIQQqQII", 0, 0, 0, 1, 0, fd, start, size, 0, 0, 0, 0)
        request = ctypes.create_string_buffer(request, len(request))
        requests = (ctypes.c_void_p * 1)(ctypes.addressof(request))
        if LIBC.syscall(io_submit, context, 1, requests) != 1:
            break
        LIBC.syscall(io_getevents, context, 1, 1, ctypes.create_string_buffer(32), None)
        stale += os.pread(cached, size, 0) != area[:]
    os.kill(reader, signal.SIGKILL)
    os.waitpid(reader, 0)
    LIBC.syscall(io_destroy, context)
    return i, stale


@case
def copying_within_the_file_system():
    source, target = os.open("file", os.O_RDONLY), os.open("new", os.O_RDWR | os.O_CREAT)
    both = os.open("other", os.O_RDWR)
    return [
        attempt(os.copy_file_range, source, target, 20_000, 100, 50),
        os.fstat(target).st_size,
        os.pread(target, 9_900, 50) == CONTENT[100:],
        attempt(os.copy_file_range, source, target, 10, 20_000, 0),
        attempt(os.copy_file_range, both, both, 4, 0, 2),
        attempt(os.copy_file_range, both, both, 5, 0, 5),
        read("other"),
        attempt(os.copy_file_range, target, source, 5),
        attempt(os.copy_file_range, source, os.open("dir", os.O_RDONLY), 5),
        attempt(os.sendfile, target, source, 0, 20_000),
    ]


@case
def holes():
    fd = os.open("new", os.O_RDWR | os.O_CREAT)
    chunk = 65536
    os.pwrite(fd, b"x" * 4096, chunk)
    os.ftruncate(fd, 1 << 20)

    def seek(at, how):
        return attempt(os.lseek, fd, at, how)

    around = [seek(0, os.SEEK_DATA), seek(0, os.SEEK_HOLE), seek(chunk, os.SEEK_HOLE)]
    behind = [seek(69632, os.SEEK_DATA), seek(1 << 20, os.SEEK_HOLE), seek(1 << 20, os.SEEK_DATA)]
    os.pwrite(fd, b"y" * (3 * chunk), 2 * chunk)
    result = attempt(fallocate, fd, PUNCH_HOLE | KEEP_SIZE, 3 * chunk, chunk)
    punched = [seek(2 * chunk, os.SEEK_HOLE), seek(3 * chunk, os.SEEK_DATA)]
    content = os.pread(fd, 2 * chunk, 2 * chunk) == b"y" * chunk + bytes(chunk)
    return around, behind, result, punched, content, [seek(-1, os.SEEK_DATA), seek(0, 9)]


@case
def holes_of_one_page():
    fd = os.open("new", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"y" * 12288, 0)
    result = attempt(fallocate, fd, PUNCH_HOLE | KEEP_SIZE, 4096, 4096)
    content = os.pread(fd, 12288, 0) == b"y" * 4096 + bytes(4096) + b"y" * 4096
    return result, content, os.lseek(fd, 0, os.SEEK_HOLE)


@case
def block_counts_follow_the_data():
    def held(path):
        found = os.stat(path)
        size = max(found.st_size, 1)
        # In eighths of the size, because file systems round differently.
        return min(found.st_blocks * 512 * 8 // size, 9)

    with open("new", "wb") as file:
        file.write(b"x" * (1 << 20))
    with open("sparse", "wb") as file:
        file.truncate(1 << 24)
        file.write(b"x" * 4096)
    full = held("new"), held("sparse")
    write("new", b"y" * (1 << 20))
    again = held("new")
    os.truncate("new", 0)
    return full, again, held("new"), held("blank")


@case
def overwriting_keeps_the_block_count():
    write("file", CONTENT)
    return os.stat("file").st_blocks * 512 < 2 * len(CONTENT)


@case
def syncing():
    fd = os.open("file", os.O_RDWR)
    os.write(fd, b"x")
    return attempt(os.fsync, fd), attempt(os.fdatasync, fd), attempt(os.fsync, os.open("dir", os.O_RDONLY)), attempt(os.fsync, os.open("file", os.O_RDONLY)), attempt(lambda: checked(LIBC.syncfs(fd)))


@case
def allocating():
    fd = os.open("file", os.O_RDWR)
    return [
        attempt(fallocate, fd, 0, 0, 20_000),
        os.fstat(fd).st_size,
        attempt(fallocate, fd, KEEP_SIZE, 0, 40_000),
        os.fstat(fd).st_size,
        attempt(fallocate, fd, PUNCH_HOLE, 0, 10),
        attempt(fallocate, fd, PUNCH_HOLE | KEEP_SIZE, 100, 200),
        os.pread(fd, 400, 0) == CONTENT[:100] + bytes(200) + CONTENT[300:400],
        attempt(fallocate, fd, PUNCH_HOLE | KEEP_SIZE, 19_000, 100_000),
        os.fstat(fd).st_size,
        attempt(fallocate, fd, 0, 0, 0),
        attempt(fallocate, fd, 0, -1, 5),
        attempt(fallocate, fd, COLLAPSE_RANGE, 0, 4096),
        attempt(fallocate, os.open("other", os.O_RDONLY), 0, 0, 10),
        attempt(fallocate, os.open("dir", os.O_RDONLY), 0, 0, 10),
        attempt(fallocate, fd, 0, 0, (1 << 63) - 1),
    ]


@case
def zeroing_a_range():
    return attempt(fallocate, os.open("file", os.O_RDWR), ZERO_RANGE, 0, 10)


@case
def unnamed_files():
    fd = attempt(os.open, ".", os.O_RDWR | os.O_TMPFILE, 0o600)
    return fd if isinstance(fd, str) else "ok"


@case
def birth_time():
    buffer = ctypes.create_string_buffer(256)
    checked(LIBC.statx(AT_FDCWD, b"file", 0, 0xFFF, buffer))
    return bool(struct.unpack_from("I", buffer.raw, 0)[0] & 0x800)


# Mappings.


@case
def a_private_mapping_is_private():
    fd = os.open("file", os.O_RDONLY)
    area = mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    same = area[:] == CONTENT
    area[0:3] = b"abc"
    return same, area[0:3], read("file") == CONTENT


@case
def a_shared_mapping_is_the_file():
    fd = os.open("file", os.O_RDWR)
    area = mmap.mmap(fd, 0)
    area[0:3] = b"abc"
    first = read("file")[:4] == b"abc" + CONTENT[3:4]
    os.pwrite(fd, b"DEF", 3)
    second = area[0:6]
    again = mmap.mmap(os.open("file", os.O_RDONLY), 0, prot=mmap.PROT_READ)
    area[9_999] = 7
    return first, second, again[9_999], child(lambda: area[0:6]), len(read("file"))


@case
def a_shared_mapping_outlives_names_and_descriptors():
    fd = os.open("file", os.O_RDWR)
    area = mmap.mmap(fd, 0)
    os.close(fd)
    os.rename("file", "other")
    area[0:5] = b"after"
    first = read("other")[:5]
    reader = os.open("other", os.O_RDONLY)
    os.unlink("other")
    area[0:5] = b"still"
    area.flush()
    return first, os.pread(reader, 5, 0), area[5:10] == CONTENT[5:10]


@case
def mapped_data_is_included_in_a_copy():
    fd = os.open("file", os.O_RDWR)
    area = mmap.mmap(fd, 0)
    area[0:5] = b"dirty"
    new = os.open("new", os.O_RDWR | os.O_CREAT)
    os.copy_file_range(fd, new, 10_000)
    area[5:10] = b"again"
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, 5)
    return read("new")[:5], area[0:10]


@case
def mapping_beyond_the_end():
    def beyond():
        fd = os.open("file", os.O_RDWR)
        area = mmap.mmap(fd, 0)
        os.ftruncate(fd, 0)
        return area[5000]

    def within():
        fd = os.open("file", os.O_RDWR)
        os.ftruncate(fd, 100)
        size = mmap.mmap(fd, 100)
        return size[99]

    return child(beyond), child(within)


@case
def invalid_mappings():
    def protected(path, flags, prot):
        mmap.mmap(os.open(path, flags), 10, flags=mmap.MAP_SHARED, prot=prot)

    write_too = mmap.PROT_READ | mmap.PROT_WRITE
    return [
        attempt(protected, "file", os.O_RDONLY, write_too),
        attempt(protected, "file", os.O_WRONLY, mmap.PROT_READ),
        attempt(protected, "dir", os.O_RDONLY, mmap.PROT_READ),
        attempt(protected, "pipe", os.O_RDWR, mmap.PROT_READ),
    ]


@case
def the_end_of_the_last_page_is_zero():
    fd = os.open("other", os.O_RDWR)
    area = mmap.mmap(fd, 5)
    os.ftruncate(fd, 3)
    os.ftruncate(fd, 5)
    return area[:]


# Locks.


def lock(path, how):
    def run():
        fcntl.flock(os.open(path, os.O_RDWR), how | fcntl.LOCK_NB)

    return run


def range_lock(path, how, start=0, length=0):
    def run():
        fcntl.lockf(os.open(path, os.O_RDWR), how | fcntl.LOCK_NB, length, start)

    return run


@case
def whole_file_locks():
    a = os.open("file", os.O_RDWR)
    b = os.open("file", os.O_RDWR)
    fcntl.flock(a, fcntl.LOCK_EX)
    held = attempt(fcntl.flock, b, fcntl.LOCK_EX | fcntl.LOCK_NB), child(lock("file", fcntl.LOCK_SH))
    fcntl.flock(a, fcntl.LOCK_SH)
    shared = child(lock("file", fcntl.LOCK_SH)), child(lock("file", fcntl.LOCK_EX))
    os.rename("file", "renamed")
    renamed = child(lock("renamed", fcntl.LOCK_EX))
    copy = os.dup(a)
    os.close(a)
    still = child(lock("renamed", fcntl.LOCK_EX))
    os.close(copy)
    return held, shared, renamed, still, child(lock("renamed", fcntl.LOCK_EX))


@case
def range_locks():
    a = os.open("one", os.O_RDWR)
    fcntl.lockf(a, fcntl.LOCK_EX, 10, 100)
    result = struct.unpack("hhqqi4x", fcntl.fcntl(a, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)))
    held = child(range_lock("one", fcntl.LOCK_EX, 105, 1)), child(range_lock("one", fcntl.LOCK_EX, 110, 5)), child(range_lock("two", fcntl.LOCK_SH, 100, 1))

    def ask():
        fd = os.open("one", os.O_RDWR)
        found = struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)))
        return found[0], found[2], found[3], found[4] == os.getppid()

    seen = child(ask)
    # Closing any descriptor of the file releases the locks of the process.
    os.close(os.open("one", os.O_RDONLY))
    return result[0] == fcntl.F_UNLCK, held, seen, child(range_lock("one", fcntl.LOCK_EX))


@case
def range_locks_of_an_open_file():
    F_OFD_SETLK = 37
    a, b = os.open("file", os.O_RDWR), os.open("file", os.O_RDWR)
    ask = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 10, 0)
    set_one = lambda fd: attempt(lambda: fcntl.fcntl(fd, F_OFD_SETLK, ask) and None)
    return set_one(a), set_one(b), child(range_lock("file", fcntl.LOCK_EX, 5, 1)), os.close(a), set_one(b)


@case
def waiting_for_a_lock():
    a = os.open("file", os.O_RDWR)
    fcntl.flock(a, fcntl.LOCK_EX)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        fd = os.open("file", os.O_RDWR)
        os.write(writer, b"1")
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(writer, b"2")
        os._exit(0)
    first = os.read(reader, 1)
    time.sleep(0.05)
    os.set_blocking(reader, False)
    early = attempt(os.read, reader, 1)
    # Closing does not release the lock: the child shares the open file.
    fcntl.flock(a, fcntl.LOCK_UN)
    status = os.waitpid(pid, 0)[1]
    return first, early, status, os.read(reader, 1)


@case
def a_deadlock_of_range_locks_is_detected():
    a = os.open("file", os.O_RDWR)
    fcntl.lockf(a, fcntl.LOCK_EX, 1, 0)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        fd = os.open("file", os.O_RDWR)
        fcntl.lockf(fd, fcntl.LOCK_EX, 1, 1)
        os.write(writer, b"1")
        fcntl.lockf(fd, fcntl.LOCK_EX, 1, 0)
        os._exit(0)
    os.read(reader, 1)
    time.sleep(0.05)
    result = attempt(fcntl.lockf, a, fcntl.LOCK_EX, 1, 1)
    fcntl.lockf(a, fcntl.LOCK_UN)
    return result, os.waitpid(pid, 0)[1]


@case
def leases():
    fd = os.open("file", os.O_RDONLY)
    return attempt(fcntl.fcntl, fd, fcntl.F_SETLEASE, fcntl.F_RDLCK), fcntl.fcntl(fd, fcntl.F_GETLEASE)


# Open files without their names.


@case
def a_removed_file_is_usable_while_open():
    fd = os.open("file", os.O_RDWR)
    number = ino("file")
    os.unlink("file")
    opened("file", os.O_CREAT)
    first = os.pread(fd, 100, 0) == CONTENT[:100], os.pwrite(fd, b"new", 0), os.pread(fd, 4, 0) == b"new" + CONTENT[3:4]
    os.ftruncate(fd, 20_000)
    os.fchmod(fd, 0o600)
    os.fchown(fd, 1, 1)
    found = os.fstat(fd)
    return first, found.st_size, found.st_ino == number, found.st_nlink, oct(found.st_mode), found.st_uid, ino("file") != number, os.readlink(f"/proc/self/fd/{fd}").endswith("file (deleted)"), read(f"/proc/self/fd/{fd}")[:3], read("file")


@case
def renaming_over_an_open_file():
    old, new = os.open("file", os.O_RDWR), os.open("other", os.O_RDWR)
    os.rename("other", "file")
    os.pwrite(new, b"OTHER", 0)
    os.pwrite(old, b"x", 0)
    return read("file"), os.pread(old, 5, 0) == b"x" + CONTENT[1:5], nlink(old), nlink(new), names(".")


@case
def renaming_an_open_file_away():
    fd = os.open("dir/inner", os.O_RDWR)
    os.rename("dir/inner", "empty/inner")
    os.rmdir("bare")
    os.write(fd, b"INNER more")
    os.rename("empty/inner", "dir/sub/inner")
    return read("dir/sub/inner"), os.readlink(f"/proc/self/fd/{fd}").endswith("dir/sub/inner")


@case
def an_open_folder_removed():
    fd = os.open("empty", os.O_RDONLY | os.O_DIRECTORY)
    os.rmdir("empty")
    os.mkdir("empty")
    return [
        attempt(os.listdir, fd),
        attempt(os.open, "new", os.O_CREAT, 0o644, dir_fd=fd),
        attempt(os.mkdir, "new", dir_fd=fd),
        attempt(os.stat, "new", dir_fd=fd),
        attempt(os.fchmod, fd, 0o700),
        oct(os.fstat(fd).st_mode),
        ino("empty") != os.fstat(fd).st_ino,
        nlink(fd),
    ]


@case
def a_running_program_is_not_written():
    put("program", read("/bin/sleep"), 0o755)
    pid = os.fork()
    if pid == 0:
        os.execv("./program", ["program", "5"])
    while not os.readlink(f"/proc/{pid}/exe").endswith("program"):
        time.sleep(0.01)
    result = attempt(opened, "program", os.O_WRONLY), attempt(os.truncate, "program", 0), attempt(os.unlink, "program")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return result


@case
def a_file_being_written_is_not_run():
    put("program", read("/bin/true"), 0o755)
    fd = os.open("program", os.O_WRONLY)
    busy = child(lambda: os.execv("./program", ["program"]))
    os.close(fd)
    return busy, child(lambda: os.execv("./program", ["program"]))


# Listings.


class Listing:
    """A folder listing with the functions of libc."""

    def __init__(self, path):
        LIBC.opendir.restype = ctypes.c_void_p
        LIBC.readdir.restype = ctypes.c_void_p
        LIBC.telldir.restype = ctypes.c_long
        self.dir = ctypes.c_void_p(LIBC.opendir(os.fsencode(path)))

    def next(self):
        found = LIBC.readdir(self.dir)
        if not found:
            return None
        number, _, _, kind = struct.unpack("QqHB", ctypes.string_at(found, 19))
        return ctypes.string_at(found + 19).decode(), number, kind

    def rest(self):
        return [item[0] for item in iter(self.next, None)]

    def tell(self):
        return LIBC.telldir(self.dir)

    def seek(self, place):
        LIBC.seekdir(self.dir, ctypes.c_long(place))

    def rewind(self):
        LIBC.rewinddir(self.dir)


@case
def listing_offsets_are_stable():
    listing = Listing("many")
    places = []
    while True:
        place = listing.tell()
        item = listing.next()
        if item is None:
            break
        places.append((place, item[0]))
    good = 0
    for place, name in places[::-7]:
        listing.seek(place)
        good += listing.next()[0] == name
    return len(places), good


@case
def listing_offsets_are_stable_during_changes():
    listing = Listing("many")
    seen = [listing.next()[0] for _ in range(100)]
    place = listing.tell()
    rest = listing.rest()
    for name in seen:
        if name not in (".", ".."):
            os.unlink("many/" + name)
    for i in range(50):
        opened(f"many/new{i}", os.O_CREAT)
    listing.seek(place)
    again = [name for name in listing.rest() if not name.startswith("new")]
    return len(rest), again == rest


@case
def listing_while_renaming():
    os.mkdir("new")
    for i in range(1000):
        opened(f"new/{i:0200}", os.O_CREAT)
    listing, seen = Listing("new"), 0
    for item in iter(listing.next, None):
        if item[0] not in (".", "..") and seen < 5000:
            seen += 1
            os.rename("new/" + item[0], "new/" + item[0][1:] + "x")
    return 1000 <= seen <= 2000, len(os.listdir("new"))


@case
def listing_while_removing():
    listing = Listing("many")
    seen = []
    for item in iter(listing.next, None):
        if item[0] not in (".", ".."):
            seen.append(item[0])
            os.unlink("many/" + item[0])
    return len(seen), len(set(seen)), os.listdir("many")


@case
def listing_while_creating_ends():
    listing = Listing("many")
    seen = set()
    for count, item in enumerate(iter(listing.next, None)):
        seen.add(item[0])
        if count < 500:
            opened(f"many/new{count}", os.O_CREAT)
    return all(str(i) in seen for i in range(300))


@case
def a_rewound_listing_shows_current_names():
    listing = Listing("many")
    listing.rest()
    os.unlink("many/7")
    opened("many/new", os.O_CREAT)
    listing.rewind()
    again = listing.rest()
    return "7" in again, "new" in again, len(again)


@case
def listings_agree_with_stat():
    os.rename("dir/inner", "dir/renamed")
    write("other", b"changed")
    wrong = []
    for path in [".", "dir", "many"]:
        listing = Listing(path)
        for name, number, kind in iter(listing.next, None):
            found = os.lstat(os.path.join(path, name))
            if (number, kind) != (found.st_ino, stat.S_IFMT(found.st_mode) >> 12):
                wrong.append(os.path.join(path, name))
    return wrong


# Pipes, sockets, devices.


@case
def pipes_and_sockets_have_names():
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open("pipe", os.O_WRONLY)
    os.write(writer, b"through")
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    server.listen()
    client = socket.socket(socket.AF_UNIX)
    again = attempt(socket.socket(socket.AF_UNIX).bind, "socket")
    result = attempt(client.connect, "socket")
    os.rename("socket", "dir/socket")
    renamed = attempt(socket.socket(socket.AF_UNIX).connect, "dir/socket")
    kind = stat.S_ISSOCK(os.lstat("dir/socket").st_mode)
    server.close()
    return os.read(reader, 20), again, result, renamed, kind, attempt(opened, "dir/socket"), attempt(socket.socket(socket.AF_UNIX).connect, "dir/socket"), attempt(socket.socket(socket.AF_UNIX).connect, "file")


@case
def nodes_of_all_kinds():
    return [
        attempt(os.mknod, "regular", stat.S_IFREG | 0o600),
        attempt(os.mknod, "node", stat.S_IFSOCK | 0o600),
        attempt(os.mknod, "folder", stat.S_IFDIR | 0o600),
        attempt(os.mknod, "file", stat.S_IFREG | 0o600),
        by(USER, os.mknod, "sticky/null", stat.S_IFCHR | 0o666, os.makedev(1, 3)),
    ]


@case
def a_device_like_a_whiteout():
    return attempt(os.mknod, "node", stat.S_IFCHR | 0o600, os.makedev(0, 0))


# Extended attributes.


@case
def user_attributes():
    return [
        attempt(os.setxattr, "file", "user.a", b"one"),
        attempt(os.setxattr, "file", "user.a", b"two", os.XATTR_CREATE),
        attempt(os.setxattr, "file", "user.b", b"two", os.XATTR_REPLACE),
        attempt(os.setxattr, "dir", "user.b", b""),
        attempt(os.getxattr, "file", "user.a"),
        attempt(os.getxattr, "file", "user.b"),
        attempt(os.setxattr, "link", "user.a", b"x", follow_symlinks=False),
        attempt(os.setxattr, "pipe", "user.a", b"x"),
        attempt(os.setxattr, "file", "unknown.a", b"x"),
        attempt(os.setxattr, "file", "user." + "n" * 251, b"x"),
        attempt(os.setxattr, "file", "user.", b"x"),
        attempt(os.setxattr, "file", "trusted.", b"x"),
        by(USER, os.setxattr, "file", "user.a", b"x"),
        by(USER, os.getxattr, "secret", "user.a"),
        attempt(lambda: sorted(name for name in os.listxattr("file") if name.startswith("user."))),
        attempt(os.removexattr, "file", "user.a"),
        attempt(os.removexattr, "file", "user.a"),
    ]


# Access lists in the format of `linux/posix_acl_xattr.h`.

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
TAGS = {"u": 1, "U": 2, "g": 4, "G": 8, "m": 16, "o": 32}
NOBODY = 0xFFFFFFFF


def access_list(words, version=2):
    """Encodes words such as `u6 U1000:4 g4 m6 o0`: tag, id, permissions."""
    value = struct.pack("<I", version)
    for word in words.split():
        of, _, may = word[1:].rpartition(":")
        value += struct.pack("<HHI", TAGS[word[0]], int(may, 8), int(of) if of else NOBODY)
    return value


def listed(path, which=ACCESS):
    value = attempt(os.getxattr, path, which)
    if isinstance(value, str):
        return value
    names = {number: tag for tag, number in TAGS.items()}
    words = []
    for tag, may, of in struct.iter_unpack("<HHI", value[4:]):
        words.append(names[tag] + (f"{of}:" if of != NOBODY else "") + str(may))
    return " ".join(words)


def set_list(path, words, which=ACCESS, **named):
    return attempt(os.setxattr, path, which, access_list(words), **named)


@case
def access_lists():
    return [
        set_list("secret", f"u6 U{USER}:6 g4 m6 o0"),
        mode("secret"),
        listed("secret"),
        by(USER, opened, "secret", os.O_WRONLY),
        by(STRANGER, opened, "secret"),
        sorted(name for name in os.listxattr("secret") if "acl" in name),
        attempt(os.removexattr, "secret", ACCESS),
        mode("secret"),
        by(USER, opened, "secret"),
    ]


@case
def access_lists_are_enforced():
    outcomes = []
    for words in [
        # A named user has only the permissions of its entry.
        f"u7 U{USER}:0 g0 m7 o7",
        f"u0 U{USER}:4 G{STRANGER}:2 g0 m7 o0",
        # The mask limits all but the owner and others.
        f"u7 U{USER}:7 G{STRANGER}:7 g7 m4 o7",
        f"u7 G{USER}:2 G{STRANGER}:4 g0 m6 o0",
    ]:
        outcomes.append(set_list("file", words))
        for who, groups in [(USER, ()), (STRANGER, ()), (USER, (STRANGER,))]:
            for flags in os.O_RDONLY, os.O_WRONLY, os.O_RDWR:
                outcomes.append(by(who, opened, "file", flags, groups=groups))
    outcomes.append(set_list("dir", f"u7 U{USER}:1 g0 m5 o0"))
    outcomes.append(by(USER, os.listdir, "dir"))
    outcomes.append(by(USER, read, "dir/inner"))
    outcomes.append(by(STRANGER, read, "dir/inner"))
    outcomes.append(set_list("dir", f"u7 U{USER}:7 g0 m7 o0"))
    outcomes.append(by(USER, opened, "dir/new", os.O_CREAT))
    return outcomes


@case
def access_lists_and_modes_stay_consistent():
    outcomes = []
    for path in "file", "setuid", "dir":
        outcomes.append(set_list(path, f"u6 U{USER}:7 g5 m7 o1"))
        outcomes.append(mode(path))
        os.chmod(path, 0o4750)
        outcomes.append((mode(path), listed(path)))
        # A list that is equivalent to a mode is not stored.
        outcomes.append(set_list(path, "u6 g4 o0"))
        outcomes.append((mode(path), listed(path)))
        # A list with a mask is stored, even without named entries.
        outcomes.append(set_list(path, "u6 g5 m4 o0"))
        outcomes.append((mode(path), listed(path)))
        os.chown(path, USER, USER)
        outcomes.append((owner(path), listed(path)))
    return outcomes


@case
def default_access_lists_are_inherited():
    outcomes = [set_list("dir", f"u7 U{USER}:6 g5 m7 o4", DEFAULT), mode("dir"), listed("dir")]
    os.umask(0o077)
    os.chdir("dir")
    os.mkdir("folder", 0o777)
    os.mkdir("closed", 0o700)
    opened("file", os.O_CREAT, 0o666)
    opened("masked", os.O_CREAT, 0o604)
    os.mkfifo("pipe")
    os.symlink("file", "link")
    opened("folder/deep", os.O_CREAT | os.O_EXCL, 0o777)
    os.mknod("node", stat.S_IFSOCK | 0o640)
    for path in ["folder", "closed", "file", "masked", "pipe", "link", "folder/deep", "node"]:
        lists = [] if path == "link" else [listed(path), listed(path, DEFAULT)]
        outcomes.append((path, mode(path), *lists))
    # A default list without named entries only determines the mode of new files.
    outcomes.append(set_list("folder", "u7 g5 o1", DEFAULT))
    opened("folder/plain", os.O_CREAT, 0o666)
    outcomes.append((mode("folder/plain"), listed("folder/plain")))
    outcomes.append(attempt(os.removexattr, "folder", DEFAULT))
    opened("folder/masked", os.O_CREAT, 0o666)
    outcomes.append((mode("folder/masked"), listed("folder/masked")))
    return outcomes


@case
def invalid_access_lists_are_rejected():
    return [
        attempt(os.setxattr, "file", ACCESS, b""),
        attempt(os.setxattr, "file", ACCESS, b"nonsense"),
        attempt(os.setxattr, "file", ACCESS, access_list("u6 g4 o0", version=1)),
        set_list("file", f"u6 U{USER}:6 g4 o0"),
        set_list("file", "u6 g4"),
        set_list("file", "g4 u6 o0"),
        set_list("file", "u6 g4 o0", DEFAULT),
        set_list("link", "u6 g4 o0", follow_symlinks=False),
        by(USER, set_list, "file", f"u6 U{USER}:6 g4 m6 o0"),
        by(USER, set_list, "owned", f"u6 U{STRANGER}:6 g4 m6 o0"),
        listed("owned"),
        attempt(os.removexattr, "file", ACCESS),
        attempt(os.removexattr, "dir", DEFAULT),
        mode("file"),
    ]


@case
def an_access_list_set_from_outside_the_group_clears_setgid():
    outcomes = []
    for group in USER, STRANGER:
        put("own", b"", 0o2755, USER, group)
        outcomes.append(by(USER, set_list, "own", f"u7 U{STRANGER}:6 g5 m7 o5"))
        outcomes.append(mode("own"))
    return outcomes


@case
def attributes_of_overlayfs():
    return attempt(os.setxattr, "dir", "user.overlay.opaque", b"y"), os.listxattr("dir")


# Cases in which a root differs from a tmpfs.


@case
def flags_of_a_file_by_ioctl():
    """FS_IOC_GETFLAGS, which `lsattr` calls."""
    return attempt(fcntl.ioctl, os.open("file", os.O_RDONLY), 0x80086601, bytes(8))


@case
def seals_of_a_file():
    get_seals = 1034
    return attempt(fcntl.fcntl, os.open("file", os.O_RDWR), get_seals)


@case
def block_number_of_a_file():
    """Whether FIBMAP returns 0. Only root of the host may call it."""
    result = attempt(fcntl.ioctl, os.open("file", os.O_RDONLY), 1, struct.pack("i", 0))
    return result in (struct.pack("i", 0), "EPERM")


def held(path):
    """Returns the number of pages that a file uses."""
    return os.stat(path).st_blocks * 512 // 4096


@case
def written_zeros():
    fd = os.open("new", os.O_RDWR | os.O_CREAT)
    os.write(fd, bytes(1 << 20))
    all_zeros = attempt(os.lseek, fd, 0, os.SEEK_DATA), held("new")
    os.pwrite(fd, b"x", 70_000)
    return all_zeros, os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 70_000, os.SEEK_HOLE)


@case
def allocating_uses_blocks():
    fd = os.open("new", os.O_RDWR | os.O_CREAT)
    fallocate(fd, 0, 0, 1 << 20)
    return held("new")


@case
def blocks_of_a_sparse_file():
    fd = os.open("new", os.O_RDWR | os.O_CREAT)
    for page in 0, 2, 40, 42, 100:
        os.pwrite(fd, b"x", page * 4096)
    return held("new")


@case
def handles_of_dropped_inodes():
    """Whether such a handle is stale. Only root of the host can make the kernel drop inodes, through
    /drop_caches."""
    handle = ctypes.create_string_buffer(struct.pack("Ii", 120, 0), 128)
    mount = ctypes.c_int()
    at = ctypes.c_int(AT_FDCWD)
    checked(LIBC.name_to_handle_at(at, b"dir/sub/leaf", handle, ctypes.byref(mount), 0))
    place = os.open(".", os.O_RDONLY)

    def open_handle():
        os.close(checked(LIBC.open_by_handle_at(place, handle, os.O_RDONLY)))

    if not os.path.exists("/drop_caches"):
        return True
    open_handle()
    # Recently used inodes are dropped the second time.
    for _ in range(3):
        write("/drop_caches", b"2", os.O_WRONLY)
    return attempt(open_handle) == "ESTALE"


@case
def changes_are_noticed():
    watch = LIBC.inotify_init1(os.O_NONBLOCK)
    LIBC.inotify_add_watch(watch, b".", 0xFFF & ~0x31)
    opened("new", os.O_CREAT)
    write("file", b"x")
    os.rename("new", "newer")
    os.unlink("newer")
    os.chmod("file", 0)
    data = os.read(watch, 65536)
    events = []
    while data:
        _, mask, _, length = struct.unpack_from("iIII", data)
        events.append((hex(mask), data[16 : 16 + length].rstrip(b"\0").decode()))
        data = data[16 + length :]
    return events


def main():
    what, root = sys.argv[1:]
    root = os.path.abspath(root)
    os.umask(0o022)
    if what == "init":
        folder(root)
        for one in CASES:
            create_files(os.path.join(root, one.__name__))
        return
    for one in CASES:
        # A child process leaves no descriptors, locks and mappings behind.
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.chdir(os.path.join(root, one.__name__))
            signal.alarm(20)
            try:
                outcome = repr(one())
            except OSError as error:
                outcome = f"it ended early: {errno.errorcode[error.errno]} in line {error.__traceback__.tb_next.tb_lineno}"
            except Exception as error:
                outcome = f"it ended early: {error!r}"
            print(f"{one.__name__}: {outcome}", flush=True)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        if status != 0:
            print(f"{one.__name__}: killed, status {status}")


main()
