#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What is damaged in the repository is found, named and contained."""
import json
import os
import subprocess
import time

import nbd

from api import Api
from lib import VOLUMED, Daemon, MiB, expect, run_tests

WAIT = 240
BLOCK = 512 * 1024


def volumectl(daemon, *args):
    done = subprocess.run([os.path.join(os.path.dirname(VOLUMED), "volumectl"), "--socket",
                           os.path.join(daemon.data, "volumed.sock"), *args],
                          capture_output=True, text=True, timeout=WAIT, check=False)
    return done.returncode, done.stdout + done.stderr


def verify(daemon, snap):
    status, text = volumectl(daemon, "--json", "snapshot", "verify", snap, "--wait-completed")
    return status, json.loads(text[text.index("{"):])


def flip(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 16]))


def take(daemon, vol):
    status, text = volumectl(daemon, "--quiet", "snapshot", "create", vol, "--wait-completed")
    expect(status == 0, text)
    return text.strip()


def packs(daemon, snap):
    """The data packs of a snapshot's upload, then those of its tree, which are there twice."""
    found = []
    for folder, _, names in os.walk(os.path.join(daemon.data, "snapshots", "packs", snap)):
        found += [os.path.join(folder, name) for name in names]
    twice = [p for p in found if p.endswith("-copy") or p + "-copy" in found]
    return sorted(set(found) - set(twice)), sorted(twice)


def begin(daemon):
    """A volume with two snapshots that share nothing, and what it holds."""
    daemon.start()
    vol = next(iter(Api(daemon).volumes()))
    handle = daemon.connect()
    snaps = []
    for _ in range(2):
        content = os.urandom(16 * MiB)
        handle.pwrite(content, 0)
        handle.flush()
        snaps.append(take(daemon, vol))
    handle.shutdown()
    return vol, snaps, content


def data(folder):
    """A data object: one block is bad, by verifying and by reading; the rest is as it was."""
    with Daemon(os.path.join(folder, "data"), "--volume-size", "64MiB") as daemon:
        _, (other, snap), content = begin(daemon)
        status, s = verify(daemon, snap)
        expect(status == 0 and s["last_verify"]["bad_bytes"] == 0, f"{s}")
        pack = packs(daemon, snap)[0][0]
        flip(pack, 200000)
        status, s = verify(daemon, snap)
        expect(status == 1 and s["last_verify"]["bad_bytes"] == BLOCK, f"{s}")
        bad = s["last_verify"]["bad"]
        expect(len(bad) == 1 and bad[0]["length"] == BLOCK and snap in bad[0]["why"] and
               os.path.basename(pack) in bad[0]["why"], f"{bad}")
        status, text = volumectl(daemon, "snapshot", "show", snap)
        expect("bad:" in text and str(bad[0]["offset"]) in text, text)
        expect(verify(daemon, other)[0] == 0, "the other one is whole")
        status, text = volumectl(daemon, "snapshot", "verify", "--all")
        expect(status == 1 and f"{other}: nothing is bad" in text, text)

        status, text = volumectl(daemon, "--quiet", "volume", "create", "--snapshot", snap)
        expect(status == 0, text)
        made = text.strip()
        expect(volumectl(daemon, "attach", made)[0] == 0, "attach")
        handle = daemon.connect(made)
        failed = 0
        for at in range(0, 16 * MiB, 65536):
            try:
                expect(handle.pread(65536, at) == content[at:at + 65536], "right or an error")
            except nbd.Error:
                expect(bad[0]["offset"] <= at < bad[0]["offset"] + BLOCK, f"{at} is unreadable")
                failed += 1
        expect(failed > 0, "what is bad is no other bytes")
        handle.shutdown()
        shown = Api(daemon)("GET", f"/volumes/{made}")
        expect(shown["health"] == "impaired" and shown["bad"], f"{shown}")
        expect(all(bad[0]["offset"] <= b["offset"] < bad[0]["offset"] + BLOCK
                   for b in shown["bad"]), f"{shown['bad']}")
        expect(daemon.stop() == 0, "exit status")


def tree(folder):
    """A page of the tree is there twice. With both copies bad what is below it can't be read."""
    with Daemon(os.path.join(folder, "data"), "--volume-size", "64MiB") as daemon:
        _, (other, snap), _ = begin(daemon)
        one, copy = packs(daemon, snap)[1][:2]
        flip(one, os.path.getsize(one) // 2)
        status, s = verify(daemon, snap)
        expect(status == 0, f"the copy serves: {s}")
        flip(copy, os.path.getsize(copy) // 2)
        status, s = verify(daemon, snap)
        expect(status == 1 and s["last_verify"]["bad_bytes"] >= 16 * MiB, f"{s}")
        expect(snap in s["last_verify"]["bad"][0]["why"], f"{s}")
        expect(verify(daemon, other)[0] == 0, "the other one is whole")
        expect(daemon.stop() == 0, "exit status")


def root(folder):
    """The object that is the snapshot itself: its state says so in its own zone, too."""
    with Daemon(os.path.join(folder, "data"), "--volume-size", "64MiB") as daemon:
        _, (other, snap), _ = begin(daemon)
        path = os.path.join(daemon.data, "snapshots", "snapshots", snap)
        flip(path, os.path.getsize(path) // 2)
        shown = Api(daemon)("GET", f"/snapshots/{snap}")
        expect(shown["state"] == "error" and "damaged" in shown["error"], f"{shown}")
        listed = {s["id"]: s["state"] for s in Api(daemon)("GET", "/snapshots")["snapshots"]}
        expect(listed == {other: "completed", snap: "error"}, f"{listed}")
        status, s = verify(daemon, snap)
        expect(status == 1 and s["last_verify"]["error"], f"{s}")
        status, text = volumectl(daemon, "volume", "create", "--snapshot", snap)
        expect(status != 0 and snap in text, text)
        expect(verify(daemon, other)[0] == 0, "the other one is whole")
        expect(volumectl(daemon, "snapshot", "delete", snap)[0] == 0, "it can be deleted")
        expect(daemon.stop() == 0, "exit status")


def refusals(folder):
    with Daemon(os.path.join(folder, "data"), "--volume-size", "64MiB") as daemon:
        _, (_, snap), _ = begin(daemon)
        status, text = volumectl(daemon, "snapshot", "verify", "snap-01234567890123456")
        expect(status != 0 and "does not exist" in text, text)
        status, text = volumectl(daemon, "snapshot", "verify", snap, "--stop")
        expect(status != 0 and "not being verified" in text, text)
        status, text = volumectl(daemon, "snapshot", "verify", snap, "--rate", "1KiB")
        expect(status != 0 and "1 MiB" in text, text)
        expect(volumectl(daemon, "snapshot", "verify")[0] == 2, "it needs a name")
        # A slow one is stopped, and so is one by the daemon's stop.
        expect(volumectl(daemon, "snapshot", "verify", snap, "--rate", "1MiB")[0] == 0, "begin")
        expect("verify" in Api(daemon)("GET", f"/snapshots/{snap}"), "under way")
        expect(volumectl(daemon, "snapshot", "verify", snap, "--stop")[0] == 0, "stop")
        end = time.monotonic() + WAIT
        while "verify" in Api(daemon)("GET", f"/snapshots/{snap}"):
            expect(time.monotonic() < end, "it goes on")
            time.sleep(0.1)
        expect(volumectl(daemon, "snapshot", "verify", snap, "--rate", "1MiB")[0] == 0, "begin")
        time.sleep(0.5)
        begun = time.monotonic()
        expect(daemon.stop() == 0, "exit status")
        expect(time.monotonic() - begun < 30, "a stop does not wait for it")


run_tests(data, tree, root, refusals)
