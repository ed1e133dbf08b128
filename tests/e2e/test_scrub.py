#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Scrubbing by the API and by volumectl: what is bad is named, and forgotten when it has healed."""
import os
import subprocess
import threading
import time

from api import Api, Refused
from lib import BLOCK, VOLUMED, Daemon, KiB, MiB, expect, flip_in_store, run_tests


def volumectl(daemon, *args):
    done = subprocess.run([os.path.join(os.path.dirname(VOLUMED), "volumectl"), "--socket",
                           os.path.join(daemon.data, "volumed.sock"), *args],
                          capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def only_volume(api):
    return next(iter(api.volumes()))


def wait_until_over(api, vol):
    while "scrub" in api("GET", f"/volumes/{vol}"):
        time.sleep(0.05)
    return api("GET", f"/volumes/{vol}")


def bad_block_is_named(folder):
    """A flipped bit is found by a scrub, though nobody reads that block; other blocks are served;
    overwriting it makes the volume well again."""
    with Daemon(os.path.join(folder, "data"), "--volume-size", "64MiB") as daemon:
        daemon.start()
        api = Api(daemon)
        vol = only_volume(api)
        handle = daemon.connect()
        handle.pwrite(os.urandom(MiB), 0)
        handle.pwrite(b"HERE IT IS".ljust(BLOCK, b"!"), 300 * BLOCK)
        handle.flush()
        status, text = volumectl(daemon, "scrub", vol, "--wait-completed")
        expect(status == 0 and "nothing is bad" in text, f"a whole volume: {status}: {text}")
        expect(flip_in_store(os.path.join(folder, "data", "store"), b"HERE IT IS") == 1, "found")
        status, text = volumectl(daemon, "scrub", vol, "--wait-completed")
        expect(status == 1, f"a bad one: {status}: {text}")
        expect("LBA 300 " in text and f"byte {300 * BLOCK}" in text, f"the place: {text}")
        shown = api("GET", f"/volumes/{vol}")
        expect(shown["health"] == "impaired", shown["health"])
        expect(shown["bad"] == [{"what": "blocks", "offset": 300 * BLOCK, "length": BLOCK,
                                 "why": "its checksum is wrong"}], f"{shown['bad']}")
        expect(shown["last_scrub"]["bad"] == 1, f"{shown['last_scrub']}")
        _, text = volumectl(daemon, "status")
        expect("impaired" in text, f"status: {text}")
        handle.pwrite(b"x" * BLOCK, 300 * BLOCK)
        shown = api("GET", f"/volumes/{vol}")
        expect(shown["health"] == "ok" and shown["bad"] == [], f"{shown}")
        status, _ = volumectl(daemon, "scrub", vol, "--wait-completed")
        expect(status == 0, "after the overwrite")
        handle.shutdown()
        expect(daemon.stop() == 0, "exit status")
        daemon.start()
        expect(api("GET", f"/volumes/{vol}")["last_scrub"]["bad"] == 0, "it is remembered")
        expect(daemon.stop() == 0, "exit status")


def check(daemon, *args):
    """volumectl check: its exit status, what it prints, and what --json does."""
    status, text = volumectl(daemon, "check", *args)
    return status, text, Api(daemon)("GET", "/check")


def checks_of_a_volume_in_use(folder):
    """An attached volume is walked while it is written to, with no false alarm; a flipped bit in it
    is named by `check --deep`, a healed block no more; a check outlives detach and delete."""
    with Daemon(os.path.join(folder, "data"), "--volume-size", "64MiB") as daemon:
        daemon.start()
        api = Api(daemon)
        vol = only_volume(api)
        handle = daemon.connect()
        stop = threading.Event()

        def write():
            number = 0
            while not stop.is_set():
                number += 1
                handle.pwrite(os.urandom(64 * KiB), number * 7919 % 500 * 64 * KiB)
                if number % 9 == 0:
                    handle.trim(256 * KiB, number * 31 % 100 * 64 * KiB)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for args in [(), (), ("--deep",), ()]:
                status, text, reply = check(daemon, *args)
                expect(status == 0 and ", 1 of them in use, 0 things wrong" in text, text)
                expect(reply["in_use"] == 1 and reply["skipped"] == 0, f"{reply}")
        finally:
            stop.set()
            writer.join()
        handle.pwrite(b"HERE IT IS".ljust(BLOCK, b"!"), 16000 * BLOCK)
        handle.flush()
        expect(flip_in_store(os.path.join(folder, "data", "store"), b"HERE IT IS") == 1, "found")
        status, text, _ = check(daemon)
        expect(status == 0, f"only the counters: {text}")
        status, text, reply = check(daemon, "--deep")
        expect(status == 1 and reply["wrong"] == 1, f"{status}: {text}")
        expect(f"{vol}: blocks 16000 to 16000: its checksum is wrong" in text, text)
        handle.pwrite(b"x" * BLOCK, 16000 * BLOCK)
        status, text, _ = check(daemon, "--deep")
        expect(status == 0, f"after the overwrite: {text}")
        handle.shutdown()
        api("POST", "/check", {"deep": True})
        api("DELETE", f"/volumes/{vol}/attachments")
        api("DELETE", f"/volumes/{vol}")
        while api("GET", "/check")["state"] == "running":
            time.sleep(0.05)
        expect(api("GET", "/check")["wrong"] == 0, f"{api('GET', '/check')}")
        while vol in api.volumes():
            time.sleep(0.05)
        api("POST", "/check", {"deep": True})
        expect(daemon.stop() == 0, "exit status")


def refused(api, method, path, body=None):
    try:
        api(method, path, body)
    except Refused as error:
        return error.code
    return None


def scrubs_and_the_life_of_a_volume(folder):
    """One at a time; it goes on over attach and detach, and ends with the volume or the daemon."""
    with Daemon(os.path.join(folder, "data"), "--volume-size", "64MiB") as daemon:
        daemon.start()
        api = Api(daemon)
        vol = only_volume(api)
        path = f"/volumes/{vol}/scrub"
        handle = daemon.connect()
        for at in range(0, 32 * MiB, MiB):
            handle.pwrite(os.urandom(MiB), at)
        expect(refused(api, "DELETE", path) == "IncorrectState", "nothing to stop")
        expect(refused(api, "POST", path, {"rate": 64 * KiB}) == "InvalidParameterValue", "slow")
        api("POST", path, {"rate": MiB})
        expect(refused(api, "POST", path) == "IncorrectState", "two at a time")
        handle.pwrite(os.urandom(MiB), 0)
        handle.shutdown()
        api("DELETE", f"/volumes/{vol}/attachments")
        expect("scrub" in api("GET", f"/volumes/{vol}"), "it goes on when it is detached")
        api("POST", f"/volumes/{vol}/attachments", {})
        api("DELETE", f"/volumes/{vol}/attachments")
        api("DELETE", path)
        shown = wait_until_over(api, vol)
        expect("last_scrub" not in shown, "one that was stopped says nothing")
        api("POST", path)  # of a volume that is not open
        expect(wait_until_over(api, vol)["last_scrub"]["bad"] == 0, "detached")
        api("POST", path, {"rate": MiB})
        expect(daemon.stop() == 0, "it stops with the daemon")
        daemon.start()
        api("POST", path, {"rate": MiB})
        api("DELETE", f"/volumes/{vol}")
        while vol in api.volumes():
            time.sleep(0.05)
        expect(api.check() == [], "clean")
        expect(daemon.stop() == 0, "exit status")


run_tests(bad_block_is_named, checks_of_a_volume_in_use, scrubs_and_the_life_of_a_volume)
