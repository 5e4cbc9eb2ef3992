"""A panel that allows two users on every node and takes every report: test_panel.py PORT_FILE [FOLDER PORT]

The port it listens on goes into PORT_FILE once it listens. With a FOLDER it allows the users that
FOLDER/users lists, listens on PORT, and writes each report as a line of FOLDER/reports: user, bytes up, bytes down.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

USERS = [f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2)]
FOLDER, PORT = (sys.argv[2], int(sys.argv[3])) if len(sys.argv) > 2 else (None, 0)


def users():
    if FOLDER is None:
        return USERS
    with open(os.path.join(FOLDER, "users")) as file:
        return file.read().split()


def keep(report):
    if FOLDER is not None:
        with open(os.path.join(FOLDER, "reports"), "a") as file:
            file.write("{uuid} {upload} {download}\n".format(**report))


class Panel(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.headers.get("x-internal-token") != "a key":
            self.send_error(401)
            return
        node = int(self.path.split("/")[-2])
        self.answer({"node_id": node, "uuids": users()})

    def do_POST(self):
        keep(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.answer(None)

    def answer(self, data):
        body = json.dumps({"code": 200, "message": "success", "data": data}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", PORT), Panel)
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(server.server_port))
os.rename(sys.argv[1] + ".new", sys.argv[1])
server.serve_forever()
