#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Snapshots are copied to another repository, whole, over a SIGKILL, and only what differs."""
import json
import os
import signal
import subprocess
import time

from api import Api
from lib import VOLUMED, Daemon, MiB, expect, run_tests

WAIT = 240


def volumectl(daemon, *args):
    done = subprocess.run([os.path.realpath(os.path.join(os.path.dirname(VOLUMED), "volumectl")),
                           "--socket", os.path.join(daemon.data, "volumed.sock"), *args],
                          capture_output=True, text=True, timeout=WAIT, check=False,
                          cwd=os.path.dirname(daemon.data))
    return done.returncode, done.stdout + done.stderr


def until(what, condition):
    end = time.monotonic() + WAIT
    while not condition():
        expect(time.monotonic() < end, f"{what}: not within {WAIT} s")
        time.sleep(0.1)


def begin(daemon):
    """Two snapshots, the second with one block that differs, and what that one holds."""
    daemon.start()
    vol = next(iter(Api(daemon).volumes()))
    handle = daemon.connect()
    content = os.urandom(16 * MiB)
    snaps = []
    for _ in range(2):
        handle.pwrite(content, 0)
        handle.flush()
        status, text = volumectl(daemon, "--quiet", "snapshot", "create", vol, "--wait-completed")
        expect(status == 0, text)
        snaps.append(text.strip())
        content = os.urandom(4096) + content[4096:]
    content = handle.pread(16 * MiB, 0)
    handle.shutdown()
    return snaps, content


def copy(daemon, snap, to, *args):
    return volumectl(daemon, "snapshot", "copy", snap, "--to", to, "--wait-completed", *args)


def restores(folder, repository, snap, content):
    with Daemon(os.path.join(folder, "other"), "--zone-number", "2", "--volume-size", "none",
                "--snapshots", repository) as daemon:
        daemon.start()
        status, text = volumectl(daemon, "--quiet", "volume", "create", "--snapshot", snap)
        expect(status == 0, text)
        vol = text.strip()
        expect(volumectl(daemon, "attach", vol)[0] == 0, "attach")
        handle = daemon.connect(vol)
        expect(handle.pread(len(content), 0) == content, "as the snapshot")
        handle.shutdown()
        status, text = volumectl(daemon, "snapshot", "verify", "--all")
        expect(status == 0, text)
        expect(daemon.stop() == 0, "exit status")


def copied(folder):
    with Daemon(os.path.join(folder, "data"), "--volume-size", "64MiB") as daemon:
        (first, second), content = begin(daemon)
        there = os.path.join(folder, "there")
        status, text = copy(daemon, first, there)
        expect(status == 0 and there in text, text)
        status, text = copy(daemon, second, "there", "--json")  # from where volumectl runs
        expect(status == 0, text)
        last = json.loads(text)["last_copy"]
        expect(last["to"] == there and last["stored_bytes"] < 2 * MiB, f"{last}")
        status, text = volumectl(daemon, "snapshot", "show", second)
        expect("copied" in text and there in text, text)
        expect(copy(daemon, second, there)[0] == 0, "what is there already is no error")
        restores(folder, there, second, content)
        expect(daemon.stop() == 0, "exit status")


def killed(folder):
    with Daemon(os.path.join(folder, "data"), "--volume-size", "64MiB") as daemon:
        (_, second), content = begin(daemon)
        api = Api(daemon)
        there = os.path.join(folder, "there")
        for how in (signal.SIGKILL, signal.SIGTERM):
            status, text = volumectl(daemon, "snapshot", "copy", second, "--to", there, "--rate",
                                     "4MiB")
            expect(status == 0, text)
            until("some of it", lambda: api("GET", f"/snapshots/{second}")["copy"]["bytes"] > MiB)
            daemon.signal(how)
            daemon.wait()
            daemon.start()
        status, text = volumectl(daemon, "snapshot", "copy", second, "--to", there, "--rate",
                                 "1MiB")
        expect(status == 0, text)
        status, text = volumectl(daemon, "snapshot", "copy", second, "--stop")
        expect(status == 0, text)
        until("the stop", lambda: "copy" not in api("GET", f"/snapshots/{second}"))
        status, text = copy(daemon, second, there)
        expect(status == 0, text)
        restores(folder, there, second, content)
        expect(daemon.stop() == 0, "exit status")


def refusals(folder):
    with Daemon(os.path.join(folder, "data"), "--volume-size", "64MiB") as daemon:
        (_, second), _ = begin(daemon)
        status, text = copy(daemon, second, os.path.join(daemon.data, "snapshots"))
        expect(status == 1 and "the repository that it is in" in text, text)
        status, text = copy(daemon, second, os.path.join(folder, "not", "there"))
        expect(status == 1 and "not/there" in text, text)
        expect(volumectl(daemon, "snapshot", "copy", second)[0] == 2, "it needs --to")
        pack = os.path.join(daemon.data, "snapshots", "packs", second)
        expect(os.path.isdir(pack), pack)
        for path, _, names in os.walk(pack):
            for name in names:
                with open(os.path.join(path, name), "r+b") as file:
                    file.seek(2000)
                    file.write(b"damaged")
        status, text = copy(daemon, second, os.path.join(folder, "there"))
        expect(status == 1 and second in text, text)
        expect(daemon.stop() == 0, "exit status")


run_tests(copied, killed, refusals)
