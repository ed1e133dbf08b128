#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Snapshots of all volumes of an instance are of one point in time, and all of them or none."""
import json
import os
import signal
import struct
import subprocess
import threading
import time

from api import Api
from lib import VOLUMED, Daemon, MiB, expect, run_tests

WAIT = 240
CTL = os.path.join(os.path.dirname(VOLUMED), "volumectl")


def command(daemon, *args):
    return [CTL, "--socket", os.path.join(daemon.data, "volumed.sock"), *args]


def volumectl(daemon, *args):
    done = subprocess.run(command(daemon, *args), capture_output=True, text=True, timeout=WAIT,
                          check=False)
    return done.returncode, done.stdout + done.stderr


class Writer(threading.Thread):
    """Writes 1, 2, 3 ... to the first volume, and each to the second once that is answered."""

    def __init__(self, daemon, volumes):
        super().__init__()
        self.handles = [daemon.connect(volume) for volume in volumes]
        self.over = False

    def run(self):
        n = 0
        try:
            while not self.over:
                n += 1
                for handle in self.handles:
                    handle.pwrite(struct.pack("<Q", n) * 512, 0)
        except Exception:  # pylint: disable=broad-except
            if not self.over:
                raise

    def stop(self):
        self.over = True
        self.join()


def begin(daemon, devices):
    daemon.start()
    api = Api(daemon)
    volumes = []
    for device in devices:
        volumes.append(api("POST", "/volumes", {"size": 16 * MiB})["id"])
        status, text = volumectl(daemon, "attach", volumes[-1], "--device", device)
        expect(status == 0, text)
    return api("GET", f"/volumes/{volumes[0]}")["attachments"][0]["instance"], volumes


def one_point(folder):
    """What one of them holds and the other lacks was not answered before the latter's point."""
    with Daemon(os.path.join(folder, "data"), "--volume-size", "none") as daemon:
        instance, volumes = begin(daemon, ["/dev/sdf", "/dev/sdg"])
        writer = Writer(daemon, volumes)
        writer.start()
        counts = set()
        for _ in range(8):
            time.sleep(0.05)
            status, text = volumectl(daemon, "--json", "snapshot", "create", "--instance",
                                     instance, "--wait-completed", "--description", "both")
            expect(status == 0, text)
            made = {s["volume"]: s["id"] for s in json.loads(text)["snapshots"]}
            expect(sorted(made) == sorted(volumes), text)
            at = []
            for volume in volumes:
                export = daemon.connect(made[volume])
                at.append(struct.unpack("<Q", export.pread(4096, 0)[:8])[0])
                export.shutdown()
            expect(at[0] in (at[1], at[1] + 1), f"{at}: not one point")
            counts.add(at[0])
        writer.stop()
        expect(len(counts) > 1, "the writer went on meanwhile")
        expect(daemon.stop() == 0, "exit status")


def boot_volume(folder):
    with Daemon(os.path.join(folder, "data"), "--volume-size", "none") as daemon:
        instance, volumes = begin(daemon, ["/dev/xvda", "/dev/sdg"])
        status, text = volumectl(daemon, "snapshot", "create", "--instance", instance,
                                 "--exclude-boot")
        expect(status == 0 and volumes[1] in text and volumes[0] not in text, text)
        status, text = volumectl(daemon, "--quiet", "snapshot", "create", "--instance", instance)
        expect(status == 0 and len(text.split()) == 2, text)
        status, text = volumectl(daemon, "snapshot", "create", "--instance", instance, volumes[0])
        expect(status == 2 and "either" in text, text)
        other = volumectl(daemon, "--quiet", "instance", "register", "bare")[1].strip()
        status, text = volumectl(daemon, "snapshot", "create", "--instance", other)
        expect(status != 0 and "no volume" in text, text)
        expect(daemon.stop() == 0, "exit status")


def killed(folder):
    """SIGKILL at any time: all of them are there afterwards, or none."""
    with Daemon(os.path.join(folder, "data"), "--volume-size", "none") as daemon:
        instance, volumes = begin(daemon, ["/dev/sdf", "/dev/sdg"])
        for i in range(6):
            with subprocess.Popen(command(daemon, "snapshot", "create", "--instance", instance),
                                  stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL) as taking:
                time.sleep(0.004 * i)
                daemon.signal(signal.SIGKILL)
                daemon.wait()
                answered = taking.wait(WAIT) == 0
            daemon.start()
            end = time.monotonic() + WAIT
            while True:
                found = Api(daemon)("GET", "/snapshots")["snapshots"]
                if all(s["state"] == "completed" for s in found):
                    break
                expect(time.monotonic() < end, f"{found}")
                time.sleep(0.2)
            expect(len(found) in ((2,) if answered else (0, 2)), f"{found}")
            expect({s["volume"] for s in found} in (set(), set(volumes)), f"{found}")
            for s in found:
                expect(volumectl(daemon, "snapshot", "delete", s["id"])[0] == 0, "delete")
            status, text = volumectl(daemon, "check")
            expect(status == 0, text)
        expect(daemon.stop() == 0, "exit status")


run_tests(one_point, boot_volume, killed)
