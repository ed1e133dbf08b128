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


def written(folder):
    """Bytes of the file system that the store takes."""
    return sum(os.stat(os.path.join(folder, name)).st_blocks * 512 for name in os.listdir(folder))


def wait_until_small(folder, size):
    for _ in range(600):
        if written(folder) < size:
            return
        time.sleep(0.1)
    raise AssertionError(f"the store still takes {written(folder) // MiB} MiB")


def discarded_space_returns(folder):
    """E5: what a discard of most of a volume makes free goes back to the file system, though the
    daemon is killed right after it; what was not discarded stays, to 4 KiB. 512 MiB are kept for
    reuse."""
    n, kept = 1280, 16
    with Daemon(os.path.join(folder, "data"), "--volume-size", "4GiB") as daemon:
        daemon.start()
        handle = daemon.connect()
        for i in range(n):
            handle.pwrite(pattern(i), i * MiB)
        handle.flush()
        full = written(daemon.data)
        expect(full > n * MiB, f"the store takes {full // MiB} MiB")
        # The edges, in 512 bytes, are inside of blocks that stay.
        handle.trim((n - kept) * MiB - BLOCK + 512, kept * MiB + BLOCK - 512)
        handle.flush()
        expect(daemon.kill() < 0, "it was killed")
        daemon.start()
        handle = daemon.connect()
        wait_until_small(daemon.data, (512 + 160) * MiB)
        for i in range(kept):
            expect(handle.pread(MiB, i * MiB) == pattern(i), f"MiB {i} after the discard")
        expect(handle.pread(MiB, kept * MiB) == pattern(kept)[:BLOCK] + bytes(MiB - BLOCK),
               "the edge of the discard")
        handle.shutdown()
        expect(daemon.stop() == 0, "exit status")
        status, text = daemon.check()
        expect(status == 0, f"--check: {status}: {text}")


run_tests(full_file_system, discarded_space_returns)
