"""An HTTP server on the loopback interface with typical faults of boot servers.

server.py FOLDER [CERTIFICATE KEY]: prints its port, serves until it is killed, and writes a line
for each request to standard error. Under /flaky/, the first response is cut off in the middle;
under /stuck/, it stalls there; under /busy/, the first two responses are 503; /moved/ redirects.
Ranges are supported except under /plain/.
"""
import http.server
import os
import re
import ssl
import sys

folder = sys.argv[1]
asked = {}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        fault, name = re.fullmatch(r"/(?:(flaky|stuck|busy|moved|plain)/)?([^/]*)", self.path).groups()
        times = asked[self.path] = asked.get(self.path, 0) + 1
        wanted = self.headers.get("Range")
        sys.stderr.write(f"{self.path} {times} {wanted}\n")
        sys.stderr.flush()
        if fault == "busy" and times <= 2:
            return self.send_error(503)
        if fault == "moved":
            self.send_response(302)
            self.send_header("Location", "/" + name)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        try:
            file = open(os.path.join(folder, name), "rb")
        except OSError:
            return self.send_error(404)
        with file:
            size = os.fstat(file.fileno()).st_size
            tag = f'"{size}"'
            same = self.headers.get("If-Range", tag) == tag
            start = int(wanted[6:].rstrip("-")) if wanted and same and fault != "plain" else 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.send_header("Content-Length", str(size - start))
            self.send_header("ETag", tag)
            self.end_headers()
            file.seek(start)
            left = size - start
            if fault in ("flaky", "stuck") and times == 1:
                left //= 2
                self.close_connection = True
            while left:
                data = file.read(min(left, 1 << 16))
                self.wfile.write(data)
                left -= len(data)
            if fault == "stuck" and times == 1:
                # Wait until the client closes the connection.
                self.connection.recv(1)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
try:
    server.serve_forever()
except KeyboardInterrupt:
    pass
