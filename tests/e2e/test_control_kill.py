#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments in control operations, under I/O. CONTROL_OPERATIONS (60) says how many
operations there are, about every third of which is cut; SEED (1) picks them."""
import os
import random
import threading
import time

import nbd

from api import Api, Gone, Refused
from lib import Daemon, KiB, Load, MiB, expect, run_tests, verify

OPERATIONS = int(os.environ.get("CONTROL_OPERATIONS", "300" if os.environ.get("SOAK") else "60"))
SEED = int(os.environ.get("SEED", "1"))
REGION = 4 * MiB
VOLUMES_MAX = 8


class Served:
    """A daemon's export, for Load and verify."""

    def __init__(self, daemon, name):
        self.daemon = daemon
        self.name = name

    def connect(self):
        return self.daemon.connect(self.name)


class Volume:
    """What its user knows of it."""

    def __init__(self, size):
        self.size = size
        self.attachment = None  # as the API told
        self.dead = []          # export names that must never work again
        self.marks = {bytes(4 * KiB)}  # what its first block may hold


class Users:
    """Those who ask for operations, and remember the answers. One that was not answered is asked
    for again after the restart, as a program would do it, and must then succeed."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.api = Api(daemon)
        self.choose = random.Random(SEED)
        self.volumes = {}
        self.instances = {None}
        self.pending = None
        self.repeats = False
        self.counts = {}
        self.number = 0

    # ---- Operations. Each may be asked for twice.

    def create(self, token, size):
        volume = self.api("POST", "/volumes", {"size": size, "client_token": token})
        self.volumes[volume["id"]] = Volume(size)

    def delete(self, id_):
        try:
            self.api("DELETE", f"/volumes/{id_}")
        except Refused as error:
            expect(error.code == "InvalidVolume.NotFound" and self.repeats, f"delete: {error}")
        del self.volumes[id_]

    def resize(self, id_, size):
        self.api("PATCH", f"/volumes/{id_}", {"size": size})
        self.volumes[id_].size = size

    def attach(self, id_, instance):
        volume = self.volumes[id_]
        body = {"instance": instance} if instance else {"device": None}
        try:
            volume.attachment = self.api("POST", f"/volumes/{id_}/attachments", body)
        except Refused as error:
            expect(error.code == "VolumeInUse" and self.repeats, f"attach: {error}")
            volume.attachment, = self.api("GET", f"/volumes/{id_}")["attachments"]
        self.use(volume)

    def detach(self, id_, force):
        volume = self.volumes[id_]
        query = "?force=true" if force else ""
        try:
            self.api("DELETE", f"/volumes/{id_}/attachments{query}")
        except Refused as error:
            expect(error.code == "IncorrectState" and self.repeats, f"detach: {error}")
        volume.dead.append(volume.attachment["export_name"])
        volume.attachment = None

    def register(self, name):
        found = [i["id"] for i in self.api.pages("/instances", "instances") if i["name"] == name]
        expect(len(found) <= 1, f"{name} is registered twice")
        expect(not found or self.repeats, f"{name} is registered already")
        self.instances.add(found[0] if found else
                           self.api("POST", "/instances", {"name": name})["id"])

    def deregister(self, id_):
        try:
            self.api("DELETE", f"/instances/{id_}")
        except Refused as error:
            expect(error.code == "InvalidInstanceID.NotFound" and self.repeats, f"{error}")
        self.instances.discard(id_)

    def use(self, volume):
        """Its first block holds a mark that was written before; then it gets another."""
        name = volume.attachment["export_name"]
        mark = self.choose.randbytes(4 * KiB)
        try:
            handle = self.daemon.connect(name)
            found = bytes(handle.pread(4 * KiB, 0))
            expect(found in volume.marks, "the volume has lost what was written to it")
            volume.marks = {found, mark}
            handle.pwrite(mark, 0, nbd.CMD_FLAG_FUA)
            volume.marks = {mark}
            handle.shutdown()
        except nbd.Error as error:
            raise Gone(str(error)) from error

    # ---- Choosing

    def pick(self):
        """An operation that can succeed: a function and its arguments."""
        attached = [v for v in self.volumes if self.volumes[v].attachment]
        free = [v for v in self.volumes if not self.volumes[v].attachment]
        idle = self.instances - {None} - {self.volumes[v].attachment["instance"] for v in attached}
        self.number += 1
        kinds = [(self.register, f"guest-{SEED}-{self.number}")]
        if len(self.volumes) < VOLUMES_MAX:
            size = self.choose.randrange(16, 64) * MiB
            kinds += [(self.create, f"token-{SEED}-{self.number}", size)] * 3
        if idle:
            kinds.append((self.deregister, self.choose.choice(sorted(idle))))
        if free:
            id_ = self.choose.choice(free)
            instance = self.choose.choice(sorted(self.instances, key=str))
            kinds += [(self.delete, id_)] * 2 + [(self.attach, id_, instance)] * 4
        if attached:
            id_ = self.choose.choice(attached)
            kinds += [(self.detach, id_, False), (self.detach, id_, True)] * 2
        if self.volumes:
            id_ = self.choose.choice(sorted(self.volumes))
            kinds += [(self.resize, id_, self.volumes[id_].size + 8 * MiB)] * 2
        return self.choose.choice(kinds)

    def go_on(self):
        """One operation. False: the daemon is gone."""
        operation = self.pending or self.pick()
        self.repeats = self.pending is not None
        self.pending = operation
        try:
            operation[0](*operation[1:])
        except (Gone, Refused) as error:
            if isinstance(error, Refused) and error.code != "Unavailable":
                raise AssertionError(f"{operation[0].__name__}{operation[1:]}: {error}") from error
            return False
        self.pending = None
        name = operation[0].__name__
        self.counts[name] = self.counts.get(name, 0) + 1
        return True

    # ---- Judging

    def judge(self, steady):
        """Catalog and store agree with what was answered. Nothing is pending."""
        there = self.api.volumes()
        while any(volume["state"] == "deleting" for volume in there.values()):
            time.sleep(0.01)
            there = self.api.volumes()
        wanted = set(self.volumes) | {steady}
        expect(set(there) == wanted, f"lost: {wanted - set(there)}, leaked: {set(there) - wanted}")
        for id_, volume in self.volumes.items():
            found = there[id_]
            expect(found["size"] == volume.size, f"{id_} has {found['size']}, not {volume.size}")
            expect(found["state"] == ("in-use" if volume.attachment else "available"),
                   f"{id_} is {found['state']}")
            names = [a["export_name"] for a in found["attachments"]]
            expect(names == ([volume.attachment["export_name"]] if volume.attachment else []),
                   f"{id_} is attached as {names}")
            for name in volume.dead[-3:]:
                self.expect_dead(name)
        findings = self.api.check()
        expect(not findings, f"check: {findings}")

    def expect_dead(self, name):
        try:
            self.daemon.connect(name)
        except nbd.Error:
            return
        raise AssertionError("an export of a detached attachment lets clients in")


def run_until_killed(users, begun, delay):
    """Operations until the daemon dies, `delay` seconds after the first of them begins."""
    timer = threading.Timer(delay, users.daemon.signal, [9])
    timer.start()
    while users.go_on():
        begun[0] += 1
    timer.join()
    users.daemon.wait()


def settle(users, steady):
    """After a restart the operation that was cut is asked for again."""
    if users.pending:
        expect(users.go_on(), "volumed has died by itself")
    users.judge(steady)


def space_used(api):
    return api("GET", "/status")["space"]["used"]


def killed_anywhere(folder):
    """Catalog and store agree; no volume is lost, leaked or attached twice, whenever it dies."""
    with Daemon(os.path.join(folder, "data"), "--volume-size", "256MiB") as daemon:
        daemon.start()
        users = Users(daemon)
        steady, = users.api.volumes()
        empty = space_used(users.api)  # the store's own
        served = Served(daemon, steady)
        expected = bytearray(REGION)
        done, kills = [0], 0
        while done[0] < OPERATIONS:
            load = Load(served, 0, expected, users.choose.random())
            load.start()
            run_until_killed(users, done, users.choose.uniform(0, 0.12))
            kills += 1
            load.join()
            expect(not load.errors, f"I/O errors: {load.errors}")
            while users.choose.random() < 0.3:
                daemon.spawn()  # the start is killed as well
                time.sleep(users.choose.uniform(0, 0.1))
                daemon.kill()
            daemon.start()
            settle(users, steady)
            verify(served, [load])
        print(f"# {done[0]} operations, {kills} kills: {users.counts}")
        all_goes(users, steady)
        used = space_used(users.api)
        expect(used == empty, f"there is no volume any more, and {used - empty} bytes are in use")
        expect(daemon.stop() == 0, "exit status of the last stop")
        status, text = daemon.check()
        expect(status == 0, f"--check: {text}")


def all_goes(users, steady):
    """Deletes all volumes."""
    for id_, volume in list(users.volumes.items()):
        if volume.attachment:
            users.detach(id_, True)
        users.delete(id_)
    users.api("DELETE", f"/volumes/{steady}/attachments")
    users.api("DELETE", f"/volumes/{steady}")
    while users.api.volumes():
        time.sleep(0.01)


run_tests(killed_anywhere)
