# SPDX-License-Identifier: Apache-2.0
"""The HTTP API of a daemon, for tests."""
import http.client
import json
import os
import socket
import time
import urllib.parse


class Refused(Exception):
    """The daemon answered with an error; `code` is the API's."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


class Gone(Exception):
    """No answer: it is not known whether the request was carried out."""


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("volumed", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Api:
    def __init__(self, daemon):
        self.socket = os.path.join(daemon.data, "volumed.sock")

    def __call__(self, method, path, body=None):
        connection = Connection(self.socket)
        try:
            connection.request(method, "/v1" + path, json.dumps(body) if body else None)
            answer = connection.getresponse()
            reply = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Gone(f"{method} {path}: {error}") from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise Refused(reply["error"]["code"], reply["error"]["message"])
        return reply

    def volumes(self):
        """All of them, by id."""
        return {volume["id"]: volume for volume in self.pages("/volumes", "volumes")}

    def pages(self, path, what):
        reply = self("GET", path)
        items = reply[what]
        while reply["next_token"]:
            reply = self("GET", f"{path}?next_token={urllib.parse.quote(reply['next_token'])}")
            items += reply[what]
        return items

    def check(self):
        """The full check, to its end: what it found."""
        self("POST", "/check", {"deep": True})
        while True:
            reply = self("GET", "/check")
            if reply["state"] != "running":
                return [] if reply["state"] == "done" and not reply["wrong"] else \
                    reply.get("findings") or [json.dumps(reply)]
            time.sleep(0.01)
