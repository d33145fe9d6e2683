"""Tests the boot hook of the debian-base provisioner inside an image, with a simulated kernel
command line and boot server."""

import hashlib
import http.server
import json
import os
import subprocess
import tempfile
import threading

SCRIPTS = {
    "/fine": b"#!/bin/bash\n[[ $BASH_VERSION ]] && echo ran in $PWD from $OVERCOAT_SCRIPT_URL\n",
    "/plain": b"echo plain; exit 7\n",
    "/late": b"echo late\n",
    "/broken": b"#!/no/such/interpreter\n",
    "/nothing": b"",
}


class Server(http.server.BaseHTTPRequestHandler):
    asked = []
    posted = []

    def do_GET(self):
        Server.asked.append(self.path)
        path = self.path.split("?")[0]
        if path == "/late" and Server.asked.count(self.path) < 3:
            return self.answer(503)
        if path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"touch /srv/short-ran\n")
            return
        if path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/fine")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if path not in SCRIPTS:
            return self.answer(404)
        self.answer(200, SCRIPTS[path])

    def do_POST(self):
        Server.asked.append(self.path)
        Server.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.answer(503 if len(Server.posted) == 1 else 200)

    def answer(self, code, body=b""):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
place = tempfile.mkdtemp()
state = place + "/state"


def hook(cmdline, tries=3):
    """Runs the hook; returns its exit code, its output and its status file."""
    Server.asked.clear()
    for name, text in ("cmdline", cmdline + "\n"), ("config", f"TRIES={tries}\nPAUSE=0\n"):
        with open(f"{place}/{name}", "w") as file:
            file.write(text)
    if os.path.exists(state + "/status"):
        os.remove(state + "/status")
    settings = {"CMDLINE": place + "/cmdline", "CONFIG": place + "/config", "STATE": state}
    environment = {"BOOT_HOOK_" + name: value for name, value in settings.items()}
    ended = subprocess.run(
        ["/usr/local/sbin/boot-hook"],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    status = None
    if os.path.exists(state + "/status"):
        with open(state + "/status") as file:
            status = json.load(file)
        assert status.pop("version") == 1
    print(ended.returncode, status, ended.stdout, sep="\n")
    return ended.returncode, ended.stdout, status


def sha256(path):
    return hashlib.sha256(SCRIPTS[path]).hexdigest()


def ran(code):
    return {"outcome": "ran", "exit_code": code}


def failed(outcome):
    return {"outcome": outcome, "exit_code": 1}


# Without a script, nothing is requested. Glob characters in parameters are literal.
open(place + "/overcoat.script=x", "w").close()
for cmdline in "quiet", "", "over* *", "overcoat.script_sha256=x notovercoat.script=http://x/":
    assert hook(cmdline)[::2] == (0, None)

# The script runs in /, with the interpreter of its #! line.
code, said, status = hook(f"a=* /* overcoat.script={url}/fine?a=*&b=1 quiet")
assert (code, status) == (0, ran(0)) and f"ran in / from {url}/fine?a=*&b=1\n" in said
assert oct(os.stat(state).st_mode & 0o777) == "0o700"
assert hook(f"overcoat.script={url}/moved")[2] == ran(0)

# Without such a line it runs with sh. The exit code is that of the script. The last parameter is
# used.
code, said, status = hook(f"overcoat.script={url}/fine overcoat.script={url}/plain")
assert (code, status) == (7, ran(7)) and "plain\n" in said and "ended with code 7" in said
assert hook(f"overcoat.script={url}/broken")[::2] == (127, ran(127))

# The request is repeated until it succeeds or the limit is reached.
assert hook(f"overcoat.script={url}/late")[::2] == (0, ran(0))
assert Server.asked == ["/late"] * 3
code, said, status = hook(f"overcoat.script={url}/missing", tries=4)
assert (code, status, len(Server.asked)) == (1, failed("unreachable"), 4)
assert "try 4 of 4 failed" in said and "404" in said
assert hook("overcoat.script=http://127.0.0.1:1/x", tries=2)[::2] == (1, failed("unreachable"))

# An incomplete script is not run.
assert hook(f"overcoat.script={url}/short", tries=1)[::2] == (1, failed("unreachable"))
assert not os.path.exists("/srv/short-ran")

# An empty script succeeds.
assert hook(f"overcoat.script={url}/nothing")[::2] == (0, {"outcome": "nothing", "exit_code": 0})

# A given digest must be that of the script.
right, wrong = sha256("/fine"), sha256("/plain")
for digest in right, right.upper():
    assert hook(f"overcoat.script={url}/fine overcoat.script_sha256={digest}")[2] == ran(0)
code, said, status = hook(f"overcoat.script={url}/fine overcoat.script_sha256={wrong}")
assert (code, status) == (1, failed("digest")) and "ran in" not in said and right in said
assert len(Server.asked) == 1
for digest in "", "abc", right[1:], right + "0", "x" * 64:
    code, said, status = hook(f"overcoat.script={url}/fine overcoat.script_sha256={digest}")
    assert (code, status) == (1, failed("parameter")) and Server.asked == []

# Only http and https URLs without special characters are accepted.
for bad in "", "file:///bin/true", "/bin/true", "http://", "http://x/'y", "http://x/`y`", "http://x/\\y":
    assert hook(f"overcoat.script={bad}")[::2] == (1, failed("parameter")), bad

# Passwords are not logged.
code, said, _ = hook(f"overcoat.script={url.replace('//', '//user:secret@')}/plain")
assert code == 7 and "secret" not in said

# The result is reported, with retries.
report = f"overcoat.script_report={url}/report"
code, said, status = hook(f"overcoat.script={url}/plain {report}")
assert code == 7 and Server.asked == ["/plain", "/report", "/report"]
assert Server.posted[-1] == {"version": 1, "outcome": "ran", "exit_code": 7}
hook(f"overcoat.script={url}/missing {report}", tries=1)
assert Server.posted[-1] == {"version": 1, "outcome": "unreachable", "exit_code": 1}
code, said, status = hook(f"overcoat.script={url}/fine overcoat.script_report=ftp://x")
assert (code, status) == (1, failed("parameter")) and Server.asked == []
print("all checks passed")
