#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""E7 on the wire: a client whose data is under way when its attachment is cut off."""
import os
import sys
import time

from api import Api
from lib import Daemon, MiB, ROOT, expect, run_tests

sys.path.insert(1, os.path.join(ROOT, "tests/nbd"))
from wire import WRITE, Client, Closed, REP_ACK, OPT_GO, request  # noqa: E402

SIZE = 1 * MiB
OLD, LATE, NEW = (bytes([letter]) * SIZE for letter in b"olN")


class Held:
    """A client that has sent one request whole, and a part of the next one; `late` is the rest."""

    def __init__(self, address, name, whole, sent):
        self.address = address
        self.name = name
        self.client = Client(address)
        self.client.go(name)
        if whole:
            self.client.send(request(WRITE, 0, SIZE, cookie=1, payload=LATE))
        message = request(WRITE, 0, SIZE, cookie=2, payload=LATE)
        self.client.send(message[:sent])
        self.late = message[sent:]
        self.client.lengths = {1: 0, 2: 0}  # neither answer has a payload

    def send_late(self):
        """What was held back comes, and then the client comes again."""
        try:
            self.client.send(self.late)
        except OSError:
            pass  # the daemon has hung up already
        try:
            while True:
                reply = self.client.reply()
                expect(reply.error or reply.cookie == 1, "the late write was answered as done")
        except (Closed, OSError):
            pass
        self.client.close()
        with Client(self.address) as client:
            client.greet()
            expect(client.info(self.name, OPT_GO)[0] != REP_ACK, "the old name lets it in again")


def read_all(address, name):
    with Client(address) as client:
        client.go(name)
        return client.read(0, SIZE)


def cut_off(folder, address_of):
    with Daemon(os.path.join(folder, "data"), "--volume-size", "none",
                "--nbd-listen", "127.0.0.1:0") as daemon:
        daemon.start()
        api = Api(daemon)
        address = address_of(daemon, api)
        other = api("POST", "/instances", {"name": "other"})["id"]
        for sent in (10, 28, 28 + 1, 28 + SIZE // 2, 28 + SIZE - 1):
            for whole in (False, True):
                cut_one(api, address, other, sent, whole)
        findings = api.check()
        expect(not findings, f"check: {findings}")


def cut_one(api, address, other, sent, whole):
    """`sent` bytes of a WRITE are on their way when the attachment is cut off."""
    volume = api("POST", "/volumes", {"size": 16 * MiB})["id"]
    path = f"/volumes/{volume}/attachments"
    attachment = api("POST", path, {"device": "/dev/sdf"})
    name = attachment["export_name"]
    with Client(address) as client:
        client.go(name)
        expect(client.write(0, OLD) == 0, "the first write")
    held = Held(address, name, whole, sent)
    begin = time.monotonic()
    api("DELETE", path + "?force=true")
    expect(time.monotonic() - begin < 5, "a forced detach waits for a client")
    new = api("POST", path, {"instance": other})["export_name"]
    before = read_all(address, new)
    # What was sent whole before may be there: whole.
    expect(before == OLD or (whole and before == LATE), "the write that was cut off is there")
    with Client(address) as client:
        client.go(new)
        expect(client.write(0, NEW) == 0, "the new client's write")
    held.send_late()
    expect(read_all(address, new) == NEW, f"a late write landed, {sent} bytes of it sent before")
    api("DELETE", path)
    api("DELETE", f"/volumes/{volume}")


def force_detach_unix(folder):
    """Nothing of what was held back lands after a forced detach, on the unix socket."""
    cut_off(folder, lambda daemon, _api: daemon.socket)


def force_detach_tcp(folder):
    """The same over TCP."""
    def address(_daemon, api):
        host, port = api("GET", "/status")["nbd_tcp"].rsplit(":", 1)
        return host, int(port)
    cut_off(folder, address)


run_tests(force_detach_unix, force_detach_tcp)
