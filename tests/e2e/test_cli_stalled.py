#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What volumectl says of a volume whose disk does not answer. No disk can be made to hang here, so
the answers come from a stand-in for the daemon, as tests/sim/test_control_stalls.c holds them."""
import http.server
import json
import os
import socketserver
import subprocess
import threading

from lib import VOLUMED, expect, run_tests

VOL = "vol-01d2c5f40a91e73b8"
WHY = "I/O to the store has not completed for 42 s: an append to the log"
ATTACHMENT = {
    "id": "vol-attach-01a7c5f40a91e73b8", "volume": VOL, "instance": "i-01f3c5f40a91e73b8",
    "device": "/dev/sdf", "state": "detaching", "generation": 7,
    "attach_time": "2026-11-22T23:49:02.001Z", "delete_on_termination": False,
    "export_name": "x", "uri": None, "tcp_uri": None, "connections": 0, "error": WHY}
VOLUME = {
    "id": VOL, "name": "db", "snapshot": None, "state": "in-use", "zone": "zone-a",
    "size": 1 << 30, "create_time": "2026-11-22T23:48:40.123Z", "error": "", "tags": {},
    "attachments": [ATTACHMENT], "io_performance": "stalled",
    "stalled": {"io": "an append to the log", "seconds": 42.5, "text": WHY}}
ANSWERS = {
    ("GET", "/v1/volumes"): {"volumes": [VOLUME], "next_token": None},
    ("GET", f"/v1/volumes/{VOL}"): VOLUME,
    ("DELETE", f"/v1/volumes/{VOL}/attachments"): ATTACHMENT,
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = ANSWERS.get((self.command, self.path.split("?")[0]))
        text = json.dumps(body or {"error": {"code": "NotFound", "message": self.path}}).encode()
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_DELETE = answer

    def log_message(self, format, *args):  # pylint: disable=redefined-builtin
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def get_request(self):
        request, _ = super().get_request()
        return request, ("unix", 0)


def with_stand_in(folder, *commands):
    """Runs volumectl with each: [(exit status, standard output, standard error)]."""
    path = os.path.join(folder, "volumed.sock")
    done = []
    with Server(path, Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for command in commands:
            p = subprocess.run([os.path.join(os.path.dirname(VOLUMED), "volumectl"), "--socket",
                                path, *command],
                               capture_output=True, text=True, timeout=60, check=False)
            done.append((p.returncode, p.stdout, " ".join(p.stderr.split())))
        server.shutdown()
    return done


def detach_that_waits_says_why(folder):
    """A detach that is not over fails, and says what it waits for."""
    plain, quiet, as_json = with_stand_in(
        folder, ["detach", VOL, "--force"], ["--quiet", "detach", VOL], ["--json", "detach", VOL])
    for status, _, err in (plain, quiet, as_json):
        expect(status == 1, f"exit status {status}")
        expect(f"{VOL} is still detaching: {WHY}" in err, err)
    expect(plain[1] == "" and quiet[1] == "", f"{plain} {quiet}")
    expect(json.loads(as_json[1])["state"] == "detaching", as_json[1])


def lists_show_it(folder):
    """A list and the volume itself warn of it."""
    (listed, table, _), (shown, fields, _), (_, text, _) = with_stand_in(
        folder, ["volume", "list"], ["volume", "show", VOL], ["--json", "volume", "list"])
    expect(listed == 0 and "in-use, I/O stalled" in table, table)
    expect(shown == 0 and "warning:" in fields and WHY in " ".join(fields.split()), fields)
    expect("it is detaching:" in " ".join(fields.split()), fields)
    expect(json.loads(text)["volumes"][0]["stalled"]["seconds"] == 42.5, text)


run_tests(detach_that_waits_says_why, lists_show_it)
