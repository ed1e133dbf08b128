#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A sparse store on a file system that fills up: E6 end to end."""
import os
import subprocess
import time

import nbd

from lib import BLOCK, Daemon, MiB, expect, run_tests


class SmallFileSystem:
    """A tmpfs of `size` bytes in `folder`; None as its path where mounting is not allowed."""

    def __init__(self, folder, size):
        self.path = os.path.join(folder, "small")
        os.mkdir(self.path)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", self.path],
                              stderr=subprocess.DEVNULL, check=False)
        if done.returncode != 0:
            self.path = None

    def __enter__(self):
        return self.path

    def __exit__(self, *_):
        if self.path:
            subprocess.run(["umount", self.path], check=True)


def pattern(i):
    return i.to_bytes(8, "little") * (MiB // 8)


def write_until_full(handle, n_max):
    """Writes one MiB after the other; returns how many went well."""
    for i in range(n_max):
        try:
            handle.pwrite(pattern(i), i * MiB)
        except nbd.Error as error:
            expect(error.errno == "ENOSPC", f"the error is {error.errno}, not ENOSPC")
            return i
    raise AssertionError("the file system never got full")


def write_again(handle, seconds):
    """A full segment's worth of writes goes through, once space has come back."""
    for _ in range(seconds * 10):
        try:
            for i in range(8):
                handle.pwrite(pattern(i), i * MiB)
            return
        except nbd.Error:
            time.sleep(0.1)
    raise AssertionError("no space came back")


def full_file_system(folder):
    """E6: whoever writes gets ENOSPC, and nothing stops: reads, flushes and trims go on, and after a
    trim so do writes."""
    with SmallFileSystem(folder, 160 * MiB) as small:
        if not small:
            return "mounting is not allowed here"
        with Daemon(os.path.join(small, "data"), "--volume-size", "4GiB") as daemon:
            daemon.start()
            handle = daemon.connect()
            n = write_until_full(handle, 400)
            expect(n > 60, f"{n} MiB went in before it was full")
            handle.flush()
            for i in range(n):
                expect(handle.pread(MiB, i * MiB) == pattern(i), f"MiB {i} when it is full")
            handle.trim((n - 4) * MiB, 0)
            handle.flush()
            expect(handle.pread(BLOCK, 0) == bytes(BLOCK), "a trimmed block")
            write_again(handle, 30)
            handle.shutdown()
            expect(daemon.stop() == 0, "exit status")
            daemon.start()
            handle = daemon.connect()
            for i in list(range(8)) + list(range(n - 4, n)):
                expect(handle.pread(MiB, i * MiB) == pattern(i), f"MiB {i} after a restart")
            handle.shutdown()
            expect(daemon.stop() == 0, "exit status")
            status, text = daemon.check()
            expect(status == 0, f"--check: {status}: {text}")
    return None


run_tests(full_file_system)
