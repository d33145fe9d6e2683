"""Tests raid-inventory inside an image, with a simulated /sys and simulated tools."""

import json
import os
import subprocess
import tempfile

place = tempfile.mkdtemp()


def write(name, text, mode=0o644):
    path = f"{place}/{name}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="latin-1") as file:
        file.write(text)
    os.chmod(path, mode)


def tool(name, text):
    write(f"bin/{name}", "#!/bin/sh\n" + text, 0o755)


def inventory(*arguments):
    environment = {"PATH": f"{place}/bin:/usr/bin:/bin"}
    for name, folder in ("SYS", "sys"), ("PROC", "proc"), ("VENDORS", "vendors"):
        environment["RAID_INVENTORY_" + name] = f"{place}/{folder}"
    ended = subprocess.run(
        ["/usr/local/sbin/raid-inventory", *arguments], env=environment, stdout=subprocess.PIPE
    )
    print(ended.stdout.decode())
    return ended.returncode, ended.stdout


def parsed():
    code, text = inventory()
    assert code == 0
    return json.loads(text)


# A machine without disks.
os.makedirs(place + "/sys")
for name in "mdadm", "nvme", "lsscsi", "smartctl", "cciss_vol_status", "lspci":
    tool(name, "echo broken; exit 1\n")
bare = parsed()
assert bare["version"] == 1 and bare["nvme"] is None
for key in "arrays", "on_disks", "controllers", "disks", "scsi", "smart_array":
    assert bare[key] == [], key
assert bare["vendor"] == {}

# A machine with an array, a controller, a disk and two vendor tools.
for name, text in {
    "md/level": "raid1\n",
    "md/array_state": "clean\n",
    "md/degraded": "1\n",
    "md/sync_action": "idle\n",
    "md/dev-sda1/state": "in_sync\n",
    "size": "2048\n",
}.items():
    write(f"sys/block/md0/{name}", text)
for name, text in {
    "device/vendor": "ATA     \n",
    "device/model": 'A "disk" \\ \t\x01\xff of mine  \n',
    "device/wwid": "naa.5000\n",
    "device/vpd_pg80": "\0\x80\0\x06 SER1 ",
    "queue/rotational": "1\n",
    "size": "4096\n",
}.items():
    write(f"sys/block/sda/{name}", text)
write("sys/block/loop0/size", "8\n")
pci = "sys/bus/pci/devices/0000:03:00.0"
for name, text in ("class", "0x010400\n"), ("vendor", "0x1000\n"), ("device", "0x0016\n"):
    write(f"{pci}/{name}", text)
os.symlink("/drivers/megaraid_sas", f"{place}/{pci}/driver")
write("sys/bus/pci/devices/0000:00:00.0/class", "0x060000\n")
os.makedirs(place + "/drivers")
os.remove(f"{place}/{pci}/driver")
os.symlink("../../../../../drivers", f"{place}/{pci}/driver")
write("sys/class/scsi_generic/sg3/dev", "21:3\n")
write("proc/mdstat", "Personalities : [raid1] [raid6]\nunused devices: <none>\n")
tool(
    "mdadm",
    'case "$*" in\n"--examine --scan") echo "ARRAY /dev/md/0 UUID=a:b" ;;\n'
    '"--detail --export /dev/md0") echo MD_LEVEL=raid1; echo MD_NAME=host:0 ;;\nesac\n',
)
tool("lspci", 'echo "03:00.0 RAID bus controller: Broadcom"\n')
tool("nvme", "echo '{\"Devices\":[]}'\n")
tool("cciss_vol_status", 'echo "$*: OK."\n')
tool("smartctl", "echo '{\"smart_status\":{\"passed\":true}}'; exit 4\n")
write("vendors/storcli", "#!/bin/sh\necho '{\"Controllers\":[1]}'\n", 0o755)
write("vendors/broken", "#!/bin/sh\necho oops\n", 0o755)
write("vendors/README", "no program\n")
full = parsed()
assert full["arrays"] == [
    {
        "name": "md0",
        "level": "raid1",
        "state": "clean",
        "degraded": 1,
        "action": "idle",
        "bytes": 1048576,
        "members": [{"name": "sda1", "state": "in_sync"}],
        "detail": {"MD_LEVEL": "raid1", "MD_NAME": "host:0"},
    }
]
assert full["personalities"] == "[raid1] [raid6]"
assert full["on_disks"] == ["ARRAY /dev/md/0 UUID=a:b"]
assert full["controllers"] == [
    {
        "slot": "0000:03:00.0",
        "class": "0104",
        "vendor": "0x1000",
        "device": "0x0016",
        "name": "RAID bus controller: Broadcom",
        "driver": "drivers",
    }
]
(disk,) = full["disks"]
assert disk["name"] == "sda" and disk["bytes"] == 2097152 and disk["vendor"] == "ATA"
assert disk["model"].startswith('A "disk" \\ \t?') and disk["model"].endswith("of mine")
assert disk["serial"] == "SER1" and disk["wwid"] == "naa.5000" and disk["smart"] == {"smart_status": {"passed": True}}
assert full["nvme"] == {"Devices": []} and full["smart_array"] == ["/dev/sg3: OK."]
assert full["vendor"] == {"broken": None, "storcli": {"Controllers": [1]}}

# A file is written completely or not at all.
assert inventory("--output", f"{place}/out/inventory.json") == (1, b"")
os.mkdir(place + "/out")
assert inventory("--output", f"{place}/out/inventory.json") == (0, b"")
assert os.listdir(place + "/out") == ["inventory.json"]
with open(place + "/out/inventory.json") as file:
    assert json.load(file) == full
assert inventory("--no-such")[0] == 2
print("all checks passed")
