#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A volume that is wanted in full is creating until all of its snapshot is copied."""
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
                          capture_output=True, text=True, timeout=WAIT, check=False)
    return done.returncode, done.stdout + done.stderr


def until(what, condition):
    end = time.monotonic() + WAIT
    while not condition():
        expect(time.monotonic() < end, f"{what}: not within {WAIT} s")
        time.sleep(0.2)


def take(daemon, content):
    handle = daemon.connect()
    handle.pwrite(content, 0)
    handle.flush()
    handle.shutdown()
    vol = next(iter(Api(daemon).volumes()))
    status, text = volumectl(daemon, "--quiet", "snapshot", "create", vol, "--wait-completed")
    expect(status == 0, text)
    return text.strip()


def reads(daemon, vol, content):
    status, text = volumectl(daemon, "attach", vol)
    expect(status == 0, text)
    handle = daemon.connect(vol)
    expect(handle.pread(len(content), 0) == content, "it is as the snapshot")
    handle.shutdown()
    expect(volumectl(daemon, "detach", vol)[0] == 0, "detach")


def in_full(folder):
    """Over a SIGKILL, and with its snapshot deleted meanwhile."""
    content = os.urandom(24 * MiB)
    with Daemon(os.path.join(folder, "data"), "--volume-size", "64MiB") as daemon:
        daemon.start()
        api = Api(daemon)
        snap = take(daemon, content)
        status, text = volumectl(daemon, "--quiet", "volume", "create", "--snapshot", snap,
                                 "--full", "--initialization-rate", "4MiB")
        expect(status == 0, text)
        vol = text.strip()
        expect(api("GET", f"/volumes/{vol}")["state"] == "creating", "creating")
        status, text = volumectl(daemon, "attach", vol)
        expect(status != 0 and "creating" in text, text)
        status, text = volumectl(daemon, "volume", "show", vol)
        expect(status == 0 and "copied" in text, text)
        daemon.signal(signal.SIGKILL)
        daemon.wait()
        daemon.start()
        expect(api("GET", f"/volumes/{vol}")["state"] == "creating", "creating still")
        expect(volumectl(daemon, "snapshot", "delete", snap)[0] == 0, "delete the snapshot")
        until("it is copied", lambda: api("GET", f"/volumes/{vol}")["state"] == "available")
        expect(api("GET", f"/volumes/{vol}")["snapshot"] is None, "it needs no snapshot")
        reads(daemon, vol, content)
        expect(volumectl(daemon, "check")[0] == 0, "check")
        expect(daemon.stop() == 0, "exit status")


def waited_for(folder):
    """--wait-completed returns when it is copied, with --full and without."""
    content = os.urandom(8 * MiB)
    with Daemon(os.path.join(folder, "data"), "--volume-size", "64MiB") as daemon:
        daemon.start()
        snap = take(daemon, content)
        for options in (["--full"], []):
            status, text = volumectl(daemon, "--json", "volume", "create", "--snapshot", snap,
                                     "--wait-completed", *options)
            expect(status == 0, text)
            made = json.loads(text)
            expect(made["state"] == "available" and made["snapshot"] is None, text)
            reads(daemon, made["id"], content)
        status, text = volumectl(daemon, "volume", "create", "--size", "1GiB", "--full")
        expect(status == 2 and "--snapshot" in text, text)
        expect(daemon.stop() == 0, "exit status")


def deleted_meanwhile(folder):
    """One that is not wanted any more goes, copied or not."""
    with Daemon(os.path.join(folder, "data"), "--volume-size", "64MiB") as daemon:
        daemon.start()
        api = Api(daemon)
        snap = take(daemon, os.urandom(8 * MiB))
        made = api("POST", "/volumes", {"snapshot": snap, "full": True,
                                        "initialization_rate": "1MiB"})
        expect(made["state"] == "creating", f"{made}")
        expect(volumectl(daemon, "volume", "delete", made["id"])[0] == 0, "delete")
        until("it is gone", lambda: made["id"] not in api.volumes())
        holds = os.path.join(daemon.data, "snapshots", "holds")
        until("its hold is gone", lambda: made["id"] not in os.listdir(holds))
        expect(daemon.stop() == 0, "exit status")


run_tests(in_full, waited_for, deleted_meanwhile)
