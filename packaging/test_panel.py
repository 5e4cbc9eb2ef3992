"""A panel that allows two users on every node and takes every report: test_panel.py PORT_FILE

The port it listens on goes into PORT_FILE once it listens.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

USERS = [f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2)]


class Panel(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.headers.get("x-internal-token") != "a key":
            self.send_error(401)
            return
        node = int(self.path.split("/")[-2])
        self.answer({"node_id": node, "uuids": USERS})

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
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


server = HTTPServer(("127.0.0.1", 0), Panel)
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(server.server_port))
os.rename(sys.argv[1] + ".new", sys.argv[1])
server.serve_forever()
