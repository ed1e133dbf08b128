#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The repository of snapshots takes the space of what is there, and of no more."""
import json
import os
import signal
import subprocess
import time

from api import Api
from lib import VOLUMED, Daemon, MiB, expect, run_tests

WAIT = 240


def volumectl(daemon, *args):
    done = subprocess.run([os.path.join(os.path.dirname(VOLUMED), "volumectl"), "--socket",
                           os.path.join(daemon.data, "volumed.sock"), *args],
                          capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def until(what, condition):
    end = time.monotonic() + WAIT
    while not condition():
        expect(time.monotonic() < end, f"{what}: not within {WAIT} s")
        time.sleep(0.2)


def packs(repository):
    """Path of each pack, and the bytes that it takes."""
    found = {}
    for folder, _, names in os.walk(os.path.join(repository, "packs")):
        for name in names:
            path = os.path.join(folder, name)
            found[path] = os.stat(path).st_blocks * 512
    return found


def make_old(repository):
    """What has just been written is not swept: it may belong to something that has just begun."""
    for path in packs(repository):
        os.utime(path, (time.time() - 3600, time.time() - 3600))


def snapshot(api, vol):
    made = api("POST", "/snapshots", {"volume": vol})["id"]
    until("the upload", lambda: api("GET", f"/snapshots/{made}")["state"] == "completed")
    return made


def space_comes_back(folder):
    """The space of a deleted snapshot comes back; what another one shares stays."""
    with Daemon(os.path.join(folder, "data"), "--volume-size", "64MiB") as daemon:
        daemon.start()
        api = Api(daemon)
        repository = os.path.join(daemon.data, "snapshots")
        vol = next(iter(api.volumes()))
        handle = daemon.connect()
        handle.pwrite(os.urandom(16 * MiB), 0)
        handle.flush()
        first = snapshot(api, vol)
        handle.pwrite(os.urandom(8 * MiB), 0)
        handle.flush()
        content = handle.pread(16 * MiB, 0)
        second = snapshot(api, vol)
        make_old(repository)
        before = sum(packs(repository).values())
        expect(before >= 24 * MiB, f"{before} bytes stored")

        begin = time.monotonic()
        api("DELETE", f"/snapshots/{first}")
        expect(time.monotonic() - begin < 5, "the deletion does not wait for the sweep")
        until("8 MiB", lambda: sum(packs(repository).values()) <= before - 7 * MiB)
        until("the result", lambda: (api("GET", "/status")["snapshot_sweep"]["last"] or
                                     {"freed": 0})["freed"] >= 7 * MiB)
        sweep = api("GET", "/status")["snapshot_sweep"]
        expect(sweep["error"] == "" and sweep["state"] in ("waiting", "sweeping"), f"{sweep}")
        status, text = volumectl(daemon, "status")
        expect(status == 0 and "last sweep" in text and "given back" in text, text)
        status, text = volumectl(daemon, "--json", "status")
        expect(json.loads(text)["snapshot_sweep"]["last"]["freed"] >= 7 * MiB, text)

        export = daemon.connect(second)
        expect(export.pread(16 * MiB, 0) == content, "the other snapshot is whole")
        export.shutdown()
        handle.shutdown()
        make_old(repository)  # a hole makes one younger
        api("DELETE", f"/snapshots/{second}")
        until("all of it", lambda: not packs(repository))
        until("the tombstones", lambda: not os.listdir(os.path.join(repository, "snapshots")))
        expect(daemon.stop() == 0, "exit status")


def killed_and_stopped_meanwhile(folder):
    """At one object a second a sweep takes long: the daemon stops at once all the same. One that is
    killed leaves its lease, which the next one respects until it has run out."""
    with Daemon(os.path.join(folder, "data"), "--volume-size", "256MiB",
                "--snapshot-sweep-rate", "1") as daemon:
        daemon.start()
        api = Api(daemon)
        repository = os.path.join(daemon.data, "snapshots")
        vol = next(iter(api.volumes()))
        handle = daemon.connect()
        handle.pwrite(os.urandom(16 * MiB), 0)
        for at in range(16, 112, 16):
            handle.pwrite(os.urandom(16 * MiB), at * MiB)
        handle.flush()
        handle.shutdown()
        made = snapshot(api, vol)
        make_old(repository)
        all_of_it = len(packs(repository))
        expect(all_of_it >= 4, f"{all_of_it} packs are enough to be in the middle")
        api("DELETE", f"/snapshots/{made}")
        until("the first one", lambda: len(packs(repository)) < all_of_it)
        expect(api("GET", "/status")["snapshot_sweep"]["state"] == "sweeping", "in the middle")
        begin = time.monotonic()
        expect(daemon.stop() == 0, "exit status")
        expect(time.monotonic() - begin < 30, "it stops in the middle of it")
        left = len(packs(repository))
        expect(left > 0, "something is left")
        daemon.start()
        until("another one", lambda: len(packs(repository)) < left)
        daemon.signal(signal.SIGKILL)
        daemon.wait()
        left = len(packs(repository))
        expect(left > 0, "something is left")
        daemon.start()
        until("it sees the lease", lambda:
              api("GET", "/status")["snapshot_sweep"]["state"] == "elsewhere")
        expect(len(packs(repository)) == left, "nothing was removed meanwhile")
        expect(daemon.stop() == 0, "exit status")


def two_daemons_share_it(folder):
    """What one zone's daemon deletes of another's goes, and what the other has stays."""
    repository = os.path.join(folder, "region")
    with Daemon(os.path.join(folder, "a"), "--volume-size", "64MiB", "--snapshots",
                repository) as one, \
            Daemon(os.path.join(folder, "b"), "--zone", "zone-b", "--zone-number", "2",
                   "--volume-size", "64MiB", "--snapshots", repository) as two:
        one.start()
        two.start()
        api = Api(one)
        handle = one.connect()
        handle.pwrite(os.urandom(8 * MiB), 0)
        handle.flush()
        gone = snapshot(api, next(iter(api.volumes())))
        content = os.urandom(8 * MiB)
        handle.pwrite(content, 0)
        handle.flush()
        kept = snapshot(api, next(iter(api.volumes())))
        handle.shutdown()
        make_old(repository)
        before = sum(packs(repository).values())
        Api(two)("DELETE", f"/snapshots/{gone}")
        until("8 MiB", lambda: sum(packs(repository).values()) <= before - 7 * MiB)
        export = two.connect(kept)
        expect(export.pread(8 * MiB, 0) == content, "the other snapshot is whole")
        export.shutdown()
        expect(one.stop() == 0 and two.stop() == 0, "exit status")


def off(folder):
    """A daemon may leave it to others."""
    with Daemon(os.path.join(folder, "data"), "--snapshot-sweep-rate", "none") as daemon:
        daemon.start()
        sweep = Api(daemon)("GET", "/status")["snapshot_sweep"]
        expect(sweep["state"] == "off" and sweep["last"] is None, f"{sweep}")
        expect(daemon.stop() == 0, "exit status")


run_tests(space_comes_back, killed_and_stopped_meanwhile, two_daemons_share_it, off)
