#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Many volumes: MANY (100; 1000 with SOAK=1) exist, a tenth of them is attached and holds data.
Prints how long a start takes; MANY_SECONDS=3 makes it a bound, for a machine that does nothing
else."""
import os

import nbd

from api import Api
from lib import Daemon, MiB, POOL, expect, run_tests

MANY = int(os.environ.get("MANY", "1000" if os.environ.get("SOAK") else "100"))
SECONDS = float(os.environ.get("MANY_SECONDS", "inf"))
RESIDENT_MAX = 200 * MiB


def resident(daemon):
    with open(f"/proc/{daemon.process.pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def fill(daemon, name, number):
    handle = daemon.connect(name)
    for at in range(0, 2 * MiB, 64 << 10):
        handle.pwrite(POOL[at:at + (64 << 10)], at * 3 + number * 4096)
    handle.pwrite(POOL[number:number + 4096], 0, nbd.CMD_FLAG_FUA)
    handle.shutdown()


def start_with_many(folder):
    """All of them are there after a restart, clean or not; the daemon stays small."""
    with Daemon(os.path.join(folder, "data"), "--volume-size", "none") as daemon:
        daemon.start()
        api = Api(daemon)
        ids = [api("POST", "/volumes", {"size": "1GiB"})["id"] for _ in range(MANY)]
        instances = [api("POST", "/instances", {"name": f"guest-{n}"})["id"]
                     for n in range(MANY // 100 or 1)]
        names = []
        for number, volume in enumerate(ids[::10]):
            body = {"instance": instances[number % len(instances)]}
            attached = api("POST", f"/volumes/{volume}/attachments", body)
            names.append(attached["export_name"])
            fill(daemon, names[-1], number)
        for end in (daemon.kill, daemon.stop):
            end()
            seconds = daemon.start()
            expect(api("GET", "/status")["volumes"]["open"] == len(names), "what is served")
            for number, name in enumerate(names):
                handle = daemon.connect(name)
                expect(handle.pread(4096, 0) == POOL[number:number + 4096], "its data")
                handle.shutdown()
            size = resident(daemon)
            print(f"# {MANY} volumes, {len(names)} attached, after {end.__name__}: start in "
                  f"{seconds:.2f} s, {size / MiB:.0f} MiB resident")
            expect(size < RESIDENT_MAX, f"{size / MiB:.0f} MiB resident")
            expect(seconds < SECONDS, f"the start took {seconds:.2f} s")
        expect(set(api.volumes()) == set(ids), "the list of volumes")


run_tests(start_with_many)
