"""Tests secure-erase inside an image, with a simulated /sys and tools that only log their
arguments. The disk is a device node without a driver; a file has its content."""

import json
import os
import shutil
import stat
import subprocess
import tempfile

place = tempfile.mkdtemp(dir="/srv")
content = place + "/content"
SIZE = 3 * 1024 * 1024 + 512
DESTRUCTIVE = ("sanitize ", "format", "security-set", "security-erase", "blkdiscard", "of=", "sg_sanitize")

SECURITY = """
ATA device, with non-removable media
\tModel Number:       FAKE
Security:
\tMaster password revision code = 65534
\t\tsupported
\tnot\tenabled
\tnot\tlocked
\tnot\tfrozen
\tnot\texpired: security count
\t\tsupported: enhanced erase
\t2min for SECURITY ERASE UNIT. 2min for ENHANCED SECURITY ERASE UNIT.
Logical Unit WWN Device Identifier: 5000c50012345678
\tsupported
"""


def write(name, text, mode=0o644):
    path = f"{place}/{name}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="latin-1") as file:
        file.write(text)
    os.chmod(path, mode)


def tool(name, text=""):
    write(f"bin/{name}", f'#!/bin/bash\necho "{name} $*" >>{place}/log\n{text}', 0o755)


CHANGE = f"head -c {SIZE} /dev/urandom >{content}\n"
ZERO = f"rm {content}; truncate -s {SIZE} {content}\n"


def disk(name="sdq", vendor="ATA", discard=0, number=0, **more):
    """Simulates a machine with only this disk."""
    for folder in "bin", "sys", "proc", "dev":
        shutil.rmtree(f"{place}/{folder}", ignore_errors=True)
        os.makedirs(f"{place}/{folder}")
    with open(content, "wb") as file:
        file.write(os.urandom(SIZE))
    block = f"sys/block/{name}"
    for file, text in {
        "size": SIZE // 512,
        "ro": 0,
        "dev": f"60:{number}",
        "queue/discard_max_bytes": discard,
        "device/vendor": vendor,
        "device/model": ' Fine "disk" ',
        "device/serial": "S1",
        f"{name}1/partition": 1,
        f"{name}1/dev": "60:9",
        f"{name}1/size": 100,
        f"{name}1/ro": 0,
        **more,
    }.items():
        write(f"{block}/{file}", f"{text}\n")
    os.makedirs(f"{place}/{block}/holders", exist_ok=True)
    os.makedirs(f"{place}/sys/dev/block")
    os.symlink(f"../../block/{name}", f"{place}/sys/dev/block/60:{number}")
    os.symlink(f"../../block/{name}/{name}1", f"{place}/sys/dev/block/60:9")
    for node, minor in (name, number), (name + "1", 9):
        os.mknod(f"{place}/dev/{node}", stat.S_IFBLK | 0o660, os.makedev(60, minor))
    write("proc/swaps", "Filename\t\tType\t\tSize\tUsed\tPriority\n")
    write("proc/self/mountinfo", "22 1 0:21 / / rw - tmpfs tmpfs rw\n")
    for name_ in "hdparm", "nvme", "sg_opcodes", "sg_sanitize":
        tool(name_, "exit 1\n")
    for name_ in "blkdiscard", "wipefs", "blockdev":
        tool(name_)
    # Reads and writes the content file instead of the disk.
    tool(
        "dd",
        f'args=()\nfor a; do case $a in if={place}/dev/*) a=if={content} ;;'
        f" of={place}/dev/*) a=of={content} ;; [io]flag=direct) continue ;; esac\n"
        'args+=("$a"); done\nexec /bin/dd "${args[@]}"\n',
    )
    return f"{place}/dev/{name}"


def erase(*arguments):
    """Runs secure-erase; returns its exit code, the report and the logged commands."""
    write("log", "")
    environment = {"PATH": f"{place}/bin:/usr/bin:/bin", "SECURE_ERASE_POLL": "0"}
    environment |= {"SECURE_ERASE_SYS": place + "/sys", "SECURE_ERASE_PROC": place + "/proc"}
    ended = subprocess.run(
        ["/usr/local/sbin/secure-erase", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if arguments[:1] == ("--wrong",) else None,
        timeout=120,
    )
    with open(place + "/log") as log:
        ran = log.read().splitlines()
    report = json.loads(ended.stdout) if ended.returncode < 2 else None
    print(ended.returncode, json.dumps(report), *ran, sep="\n  ")
    return ended.returncode, report and report["devices"], ran


def untouched(ran):
    return not [line for line in ran if any(word in line for word in DESTRUCTIVE)]


def ata(security=SECURITY, erased=CHANGE):
    path = disk(discard=4096)
    write("security", security)
    tool("hdparm", f"case $* in -I*) cat {place}/security ;; *security-erase*) {erased} ;; esac\n")
    return path


def nvme(sanicap="0x3", oacs="0x17", fna="0x4", namespaces=1, status=("0x2", "0x101")):
    path = disk("nvme9n1", vendor="", discard=4096)
    write("id", f"sanicap   : {sanicap}\noacs      : {oacs}\nfna       : {fna}\n")
    write("status", "\n".join(status) + "\n")
    tool(
        "nvme",
        f"case $1 in\nid-ctrl) cat {place}/id ;;\n"
        f'list-ns) for i in $(seq {namespaces}); do echo "[ $i]:0x$i"; done ;;\n'
        f"sanitize-log) echo 'Sanitize Progress (SPROG) : 1'\n"
        f'echo "Sanitize Status     (SSTAT) : $(head -n 1 {place}/status)"; sed -i 1d {place}/status ;;\n'
        f"format | sanitize) {CHANGE} ;;\nesac\n",
    )
    return path


# --- A dry run reports the methods and changes nothing.
path = ata()
code, (found,), ran = erase(path)
assert code == 0 and untouched(ran) and found["refused"] is None
assert found["methods"] == ["ata-enhanced", "ata", "discard", "overwrite"]
assert (found["device"], found["bytes"], found["model"]) == (path, SIZE, 'Fine "disk"')
assert "erased" not in found and found["serial"] == "S1"

# --- Other kinds of disks have their serial number elsewhere.
for file, text, serial in ("serial", "V1\n", "V1"), ("device/vpd_pg80", "\0\x80\0\4 P1 ", "P1"):
    path = ata()
    os.remove(place + "/sys/block/sdq/device/serial")
    write("sys/block/sdq/" + file, text)
    assert erase(path)[1][0]["serial"] == serial, file

# --- Without a device argument, all disks are reported.
code, (found,), ran = erase()
assert code == 0 and untouched(ran) and found["device"] == "/dev/sdq"

# --- The most reliable method is tried first; if it works, it is the only one.
path = ata()
code, (found,), ran = erase("--yes-erase", path)
assert code == 0 and found["erased"] and found["method"] == "ata-enhanced"
assert found["verified"] is True and found["failed"] == []
assert "hdparm --user-master u --security-erase-enhanced overcoat " + path in ran
assert not [line for line in ran if "of=" in line or "blkdiscard" in line]

# --- Ineffective methods are detected, and the next one is tried.
path = ata(erased=":")
code, (found,), ran = erase("--yes-erase", path)
assert code == 0 and found["method"] == "overwrite" and found["verified"] is True
assert [line.split(":")[0] for line in found["failed"]] == ["ata-enhanced", "ata", "discard"]
assert "can still be read" in found["failed"][0]
with open(content, "rb") as file:
    assert file.read() == bytes(SIZE)

# --- A discard counts only if zeros are read afterwards.
path = disk(vendor="QEMU", discard=4096)
tool("blkdiscard", ZERO)
assert erase("--yes-erase", path)[1][0]["method"] == "discard"
path = disk(vendor="QEMU", discard=4096)
tool("blkdiscard", CHANGE)
assert erase("--yes-erase", path)[1][0]["method"] == "overwrite"
path = disk(vendor="QEMU")
assert erase(path)[1][0]["methods"] == ["overwrite"]

# --- A disk that cannot be erased is not reported as erased.
path = disk(vendor="QEMU")
tool("dd", "case $* in *of=*) exit 1 ;; esac\nexec /bin/dd if=/dev/zero bs=1 count=9 status=none\n")
code, (found,), ran = erase("--yes-erase", path)
assert code == 1 and not found["erased"] and found["method"] is None
path = disk(vendor="QEMU")
tool("dd", "case $* in *of=*) exit 0 ;; esac\nexit 1\n")
code, (found,), ran = erase("--yes-erase", path)
assert code == 1 and "cannot be read" in found["failed"][0]

# --- A failed ATA erase leaves no password.
path = ata(erased="echo refused; exit 5")
code, (found,), ran = erase("--yes-erase", path, "--method", "ata")
assert code == 1 and found["failed"] == ["ata: refused"]
assert "hdparm --user-master u --security-disable overcoat " + path in ran

# --- Unsupported methods are skipped, and the reason is reported.
for was, now, why in (
    ("not\tfrozen", "frozen", "frozen"),
    ("not\tlocked", "locked", "password"),
    ("not\tenabled", "enabled", "password"),
    ("\t\tsupported\n", "", "no security erase"),
):
    code, (found,), ran = erase(ata(SECURITY.replace(was, now)))
    assert found["methods"] == ["discard", "overwrite"] and why in found["excluded"][0], now
code, (found,), ran = erase(ata(SECURITY.replace("\t\tsupported: enhanced erase\n", "")))
assert found["methods"] == ["ata", "discard", "overwrite"]

# --- NVMe: sanitize runs in the background, and its end is awaited.
path = nvme(status=("0x2", "0x2", "0x101"))
code, (found,), ran = erase("--yes-erase", path)
assert code == 0 and found["method"] == "nvme-sanitize-block" and found["verified"] is True
assert ran.count("nvme sanitize-log " + path) == 3
path = nvme(status=("0x2", "0x3", "0x3"))
code, (found,), ran = erase("--yes-erase", path)
assert found["method"] == "nvme-format-crypto" and "reports status 3" in found["failed"][0]
nothing = {"sanicap": "0", "oacs": "0x15"}
assert erase(nvme(**nothing))[1][0]["methods"] == ["discard", "overwrite"]
assert erase(nvme(sanicap="0", fna="0"))[1][0]["methods"][0] == "nvme-format-user-data"

# --- Methods that would erase other namespaces are not used.
code, (found,), ran = erase(nvme(namespaces=2, fna="0x5"))
assert found["methods"] == ["discard", "overwrite"] and len(found["excluded"]) == 2
code, (found,), ran = erase(nvme(namespaces=2))
assert found["methods"][0] == "nvme-format-crypto" and len(found["excluded"]) == 1

# --- SCSI disks report their methods; ATA commands are only used with ATA disks.
path = disk(vendor="SEAGATE")
tool("sg_opcodes", "case $* in *0x48,0x3*) echo '  Command is supported [conforms]' ;;"
     " *) echo '  Command not supported' ;; esac\n")
tool("sg_sanitize", CHANGE)
code, (found,), ran = erase("--yes-erase", path)
assert found["methods"] == ["scsi-sanitize-crypto", "overwrite"]
assert found["method"] == "scsi-sanitize-crypto" and not [line for line in ran if "hdparm" in line]

# --- Disks in use are rejected and not changed.
mount = "30 22 {} / /mnt rw,relatime shared:1 - ext4 {} rw\n"
for why, file, text in (
    ("mounted on /mnt", "proc/self/mountinfo", mount.format("60:0", "/dev/sdq")),
    ("sdq1 is mounted on /mnt", "proc/self/mountinfo", mount.format("60:9", "/dev/root")),
    ("sdq1 is mounted on /mnt", "proc/self/mountinfo", mount.format("0:40", "/dev/sdq1")),
    ("swap", "proc/swaps", "Filename Type\n/dev/sdq1 partition 1 0 -2\n"),
    ("used by md0", "sys/block/sdq/holders/md0", ""),
    ("sdq1 is used by dm-0", "sys/block/sdq/sdq1/holders/dm-0", ""),
    ("read-only", "sys/block/sdq/ro", "1\n"),
    ("no medium", "sys/block/sdq/size", "0\n"),
):
    path = ata()
    write(file, text)
    for arguments in (path,), ("--yes-erase", path):
        code, (found,), ran = erase(*arguments)
        assert why in found["refused"] and found["methods"] == [], why
        assert ran == [] and code == (len(arguments) == 2), why
path = ata()
for device, why in (path + "1", "a partition"), (content, "not a block device"), ("/nope/x", "no such"):
    code, (found,), ran = erase("--yes-erase", device)
    assert code == 1 and why in found["refused"] and ran == [], device
tool("wipefs", "echo busy; exit 1\n")
code, (found,), ran = erase("--yes-erase", path)
assert code == 1 and "in use" in found["refused"] and untouched(ran)

# --- One failed device does not affect the report of others.
path = ata()
code, found, ran = erase("--yes-erase", "/nope/x", "--yes-erase", path)
assert code == 1 and [one["erased"] for one in found] == [False, True]

# --- A requested method is the only one, even if the disk does not support it.
path = ata()
code, (found,), ran = erase("--method", "overwrite", "--yes-erase", path)
assert code == 0 and found["method"] == "overwrite"
assert not [line for line in ran if "security-" in line or "blkdiscard" in line]
code, (found,), ran = erase("--method", "nvme-format-crypto", "--yes-erase", path)
assert code == 1 and "not supported" in found["failed"][0] and untouched(ran)

# --- Invalid arguments erase nothing.
for arguments in (
    ("--wrong",),
    ("--yes-erase",),
    (path, "--yes-erase", path),
    ("--yes-erase", path, path),
    ("--method", "magic", "--yes-erase", path),
    ("--yes-erase", path, "--method"),
    ("--yes", path),
):
    code, _, ran = erase(*arguments)
    assert code == 2 and ran == [], arguments
print("all checks passed")
